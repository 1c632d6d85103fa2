"""What an experiment is, read from its table.yaml: rows, the paper's numbers, and what to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from enum import Enum
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from attention_chains.config.errors import ConfigError
from attention_chains.report.measurement import MEANINGS

_REQUIRED = "???"


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
        The paper's numbers by the paper's column, in percent, and its standard deviations over runs.
    miou_kind : MiouKind
        What the paper's mIoU of this row is.
    """

    label: str = _REQUIRED
    method: str | None = None
    paper: dict[str, float] = field(default_factory=dict)
    paper_std: dict[str, float] = field(default_factory=dict)
    miou_kind: MiouKind = MiouKind.standard


@dataclass
class Pair:
    """Two rows whose difference is wanted, paired over the images."""

    first: str = _REQUIRED
    second: str = _REQUIRED


@dataclass
class Ordering:
    """Rows that the paper puts in this order by one column, the greatest first."""

    column: str = _REQUIRED
    rows: list[str] = _REQUIRED  # type: ignore[assignment]


@dataclass
class Tolerance:
    """Largest distance from the paper, in points, at which a number counts as reproduced (protocol 8.1)."""

    strict: float = 1.0
    acceptable: float = 3.0


@dataclass
class Photograph:
    """A photograph from outside of the data: its name in scikit-image, the prompt, and the word to start from.

    It is shown at one scale, since a miniature knows fewer words than the paper's checkpoints.
    """

    scale: str = _REQUIRED
    name: str = _REQUIRED
    prompt: str = _REQUIRED
    word: str = _REQUIRED


@dataclass
class Panels:
    """The picture beside the table: the first samples and some photographs, a column for each of `methods`."""

    methods: list[str] = _REQUIRED  # type: ignore[assignment]
    samples: int = 12
    photographs: list[Photograph] = field(default_factory=list)


@dataclass
class Definition:
    """A table of the paper: the content of table.yaml, checked.

    Attributes
    ----------
    title : str
    columns : list of str
        Names of metrics (`measurement.MEANINGS`), the headline first.
    rows : list of Row
    comparisons : list of Pair
    orderings : list of Ordering
    tolerance : Tolerance
    notes : list of str
        Sentences printed below the table.
    panels : Panels, optional
        The picture beside the table.
    """

    title: str = _REQUIRED
    columns: list[str] = _REQUIRED  # type: ignore[assignment]
    rows: list[Row] = _REQUIRED  # type: ignore[assignment]
    comparisons: list[Pair] = field(default_factory=list)
    orderings: list[Ordering] = field(default_factory=list)
    tolerance: Tolerance = field(default_factory=Tolerance)
    notes: list[str] = field(default_factory=list)
    panels: Panels | None = None

    def row(self, label: str) -> Row:
        """Row by its label."""
        return next(row for row in self.rows if row.label == label)


def read_definition(path: Path) -> Definition:
    """Read and check one table.yaml.

    Raises
    ------
    ConfigError
        When the file is missing or is not YAML, or a key, a type, a row or a column in it is wrong.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        merged = OmegaConf.merge(OmegaConf.structured(Definition), given)
        definition = OmegaConf.to_object(merged)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; name a folder of experiments/.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {_sentence(error)}") from None
    _check_names(definition, path)
    return definition


def _sentence(error: Exception) -> str:
    if isinstance(error, ConfigKeyError):
        known = [entry.name for entry in fields(error.object_type)]
        return f"{error.full_key!r} is not a key{_nearest(str(error.key), known)}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key!r} is missing; add it."
    where = getattr(error, "full_key", None)
    return (
        f"{where!r}: {_first_line(error)}; correct it." if where else f"{_first_line(error)}; write a mapping of keys."
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(close)}." if close else f"; choose from: {', '.join(known)}."


def _check_names(definition: Definition, path: Path) -> None:
    labels = [row.label for row in definition.rows]
    _check_unique(labels, "rows", path)
    _check_unique(definition.columns, "columns", path)
    _check_known(definition.columns, list(MEANINGS), "columns", "metric", path)
    for row in definition.rows:
        where = f"row {row.label!r}"
        _check_known([*row.paper, *row.paper_std], definition.columns, where, "column", path)
        if row.miou_kind is MiouKind.acc_over_2_minus_acc and "mIoU_ca" not in definition.columns:
            raise ConfigError(f"{path}: {where} prints Acc/(2-Acc) as mIoU, so columns needs 'mIoU_ca'; add it.")
    if definition.panels is not None:
        _check_known(
            definition.panels.methods, [row.method for row in definition.rows if row.method], "panels", "method", path
        )
    for pair in definition.comparisons:
        _check_known([pair.first, pair.second], labels, "comparisons", "row", path)
    for ordering in definition.orderings:
        _check_known([ordering.column], definition.columns, "orderings", "column", path)
        _check_known(ordering.rows, labels, "orderings", "row", path)


def _check_unique(names: Sequence[str], where: str, path: Path) -> None:
    for position, name in enumerate(names):
        if name in names[:position]:
            raise ConfigError(f"{path}: {where} has {name!r} twice; remove one.")


def _check_known(names: Sequence[str], known: Sequence[str], where: str, what: str, path: Path) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{path}: {where} names {name!r}, which is not a {what}{_nearest(name, known)}")
