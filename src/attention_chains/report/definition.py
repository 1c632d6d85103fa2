"""What an experiment is, read from its table.yaml: rows, the paper's numbers, and what to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from attention_chains.config.errors import ConfigError
from attention_chains.metrics import MetricError
from attention_chains.metrics.metric import Metric
from attention_chains.report.measurement import metrics_of
from attention_chains.report.reading import REQUIRED, read_yaml, refuse_twice, refuse_unknown


class MiouKind(Enum):
    """Which quantity a row of the paper prints as mIoU (protocol 1.2)."""

    standard = "mean of the two class IoUs"
    acc_over_2_minus_acc = "Acc / (2 - Acc)"
    unknown = "neither"


@dataclass
class Row:
    """A row of the table.

    Attributes
    ----------
    label : str
        As the paper writes it.
    method : str, optional
        Label of the method in the records; None where nothing measures the row yet.
    paper, paper_std : dict of str to float
        The paper's numbers by the paper's column, in its unit, and its standard deviations over runs.
    miou_kind : MiouKind
        What the paper's mIoU of this row is.
    """

    label: str = REQUIRED
    method: str | None = None
    paper: dict[str, float] = field(default_factory=dict)
    paper_std: dict[str, float] = field(default_factory=dict)
    miou_kind: MiouKind = MiouKind.standard


@dataclass
class Pair:
    """Two rows whose difference is wanted, paired over the images."""

    first: str = REQUIRED
    second: str = REQUIRED


@dataclass
class Ordering:
    """Rows that the paper puts in this order by one column, the best first."""

    column: str = REQUIRED
    rows: list[str] = REQUIRED


@dataclass
class Tolerance:
    """Largest distance from the paper, in the column's unit, at which a number counts as reproduced (protocol 8.1)."""

    strict: float = 1.0
    acceptable: float = 3.0


@dataclass
class Photograph:
    """A photograph from outside of the data: its name in scikit-image, the prompt, and the word to start from.

    It is shown at one scale, since a miniature knows fewer words than the paper's checkpoints.
    """

    scale: str = REQUIRED
    name: str = REQUIRED
    prompt: str = REQUIRED
    word: str = REQUIRED


@dataclass
class Panels:
    """The picture beside the table: the first samples and some photographs, a column for each of `methods`."""

    methods: list[str] = REQUIRED
    samples: int = 12
    photographs: list[Photograph] = field(default_factory=list)


@dataclass
class Definition:
    """A table of the paper: the content of table.yaml, checked.

    Attributes
    ----------
    title : str
    rows : list of Row
    task : str
        Whose runs fill the table.
    columns : list of str
        Names of the task's metrics, the headline first; or, of a table of families, the families.
    families : dict of str to list of str
        Columns that are model families: each with its models (configs/model/). A cell is the mean of `metric` over
        those of its family that are run at the scale.
    metric : str, optional
        The one metric of a table of families.
    beside : list of str
        Further metrics of the families that are the same for every row; shown once, below the table.
    comparisons : list of Pair
    orderings : list of Ordering
    tolerance : Tolerance, optional
        None where no distance from the paper would mean anything.
    notes : list of str
        Sentences printed below the table.
    panels : Panels, optional
        The picture beside the table.
    grid : int, optional
        Samples in the picture of generated images beside the table, a column for each row that is measured.
    """

    title: str = REQUIRED
    rows: list[Row] = REQUIRED
    task: str = "segmentation"
    columns: list[str] = field(default_factory=list)
    families: dict[str, list[str]] = field(default_factory=dict)
    metric: str | None = None
    beside: list[str] = field(default_factory=list)
    comparisons: list[Pair] = field(default_factory=list)
    orderings: list[Ordering] = field(default_factory=list)
    tolerance: Tolerance | None = field(default_factory=Tolerance)
    notes: list[str] = field(default_factory=list)
    panels: Panels | None = None
    grid: int | None = None

    def metric_of(self, column: str) -> Metric:
        """What a column measures."""
        return metrics_of(self.task)[self.metric if self.families else column]


def read_definition(path: Path) -> Definition:
    """Read and check one table.yaml.

    Raises
    ------
    ConfigError
        When the file is missing or is not YAML, or a key, a type, a row or a column in it is wrong.
    """
    definition = read_yaml(path, Definition)
    try:
        known = list(metrics_of(definition.task))
    except MetricError as error:
        raise ConfigError(f"{path}: {error}") from None
    _check_columns(definition, known, path)
    _check_rows(definition, path)
    return definition


def _check_columns(definition: Definition, known: Sequence[str], path: Path) -> None:
    if definition.families:
        _check_families(definition, known, path)
        definition.columns = list(definition.families)
    if not definition.columns:
        raise ConfigError(f"{path}: the table has no column; give columns, or metric and families.")
    refuse_twice(definition.columns, "columns", path)
    if not definition.families:
        refuse_unknown(definition.columns, known, "columns", "metric", path)
    refuse_unknown(definition.beside, known, "beside", "metric", path)


def _check_families(definition: Definition, known: Sequence[str], path: Path) -> None:
    if definition.columns or definition.metric is None:
        raise ConfigError(f"{path}: a table of families has one metric and no columns; correct it.")
    refuse_unknown([definition.metric], known, "metric", "metric", path)
    refuse_twice([model for models in definition.families.values() for model in models], "families", path)


def _check_rows(definition: Definition, path: Path) -> None:
    labels = [row.label for row in definition.rows]
    refuse_twice(labels, "rows", path)
    for row in definition.rows:
        where = f"row {row.label!r}"
        refuse_unknown([*row.paper, *row.paper_std], definition.columns, where, "column", path)
        if row.miou_kind is MiouKind.acc_over_2_minus_acc and "mIoU_ca" not in definition.columns:
            raise ConfigError(f"{path}: {where} prints Acc/(2-Acc) as mIoU, so columns needs 'mIoU_ca'; add it.")
    methods = [row.method for row in definition.rows if row.method]
    if definition.panels is not None:
        refuse_unknown(definition.panels.methods, methods, "panels", "method", path)
    for pair in definition.comparisons:
        refuse_unknown([pair.first, pair.second], labels, "comparisons", "row", path)
    for ordering in definition.orderings:
        refuse_unknown([ordering.column], definition.columns, "orderings", "column", path)
        refuse_unknown(ordering.rows, labels, "orderings", "row", path)
