"""The error of the data room."""


class DataError(ValueError):
    """A data set, or a sample of it, that cannot be used as it is."""
