"""What goes wrong between the command line and a run."""


class ConfigError(ValueError):
    """A configuration that cannot be run: one sentence that names the key, the value and the way out."""
