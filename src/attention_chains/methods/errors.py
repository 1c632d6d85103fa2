"""The error of the methods room."""


class MethodError(ValueError):
    """A method that does not exist."""
