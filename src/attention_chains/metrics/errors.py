"""The error of the metrics room."""


class MetricError(ValueError):
    """A map, a mask or a set of statistics that cannot be measured."""
