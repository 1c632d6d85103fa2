"""The error of the methods room."""


class MethodError(ValueError):
    """A method that does not exist, or a key that it does not take."""
