"""The error of the models room."""


class AssetError(RuntimeError):
    """Weights that are missing, cannot be loaded, or do not fit the machine."""
