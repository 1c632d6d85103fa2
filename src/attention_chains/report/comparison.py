"""Which method is better: differences paired over the images, and whether the paper's orderings hold."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise

from attention_chains.report.bootstrap import Interval
from attention_chains.report.definition import Definition, Ordering
from attention_chains.report.measurement import Measurement
from attention_chains.report.table import Cell, escape, markdown_table, number, span

Measurements = Mapping[str, Measurement | None]
"""By row label; None where nothing was measured."""

HOLDS, FAILS, UNDECIDED, NOT_MEASURED = "holds", "does not hold", "undecided", "not measured"


@dataclass(frozen=True)
class Difference:
    """Difference of two rows in one column, first minus second, in points.

    Attributes
    ----------
    first, second, column : str
    paper : float or None
        Difference of the paper's numbers.
    measured : Interval or None
        Paired over the images; its `positive` is the confidence that the first is the greater. None unless both rows
        were measured.
    n : int or None
        Number of images.
    """

    first: str
    second: str
    column: str
    paper: float | None
    measured: Interval | None
    n: int | None

    @property
    def verdict(self) -> str:
        """Whether the first is the greater; undecided where the interval of the difference holds zero, or is none."""
        if self.measured is None:
            return NOT_MEASURED
        if self.measured.low > 0:
            return HOLDS
        return FAILS if self.measured.high < 0 else UNDECIDED


def comparisons(definition: Definition, cells: Sequence[Cell], measurements: Measurements) -> list[Difference]:
    """Differences that the experiment asks for, in every column."""
    return [
        _difference(pair.first, pair.second, column, cells, measurements)
        for pair in definition.comparisons
        for column in definition.columns
    ]


def ordering_steps(ordering: Ordering, cells: Sequence[Cell], measurements: Measurements) -> list[Difference]:
    """Differences of neighbours in an ordering of the paper: it holds where all of them are above zero."""
    return [_difference(*rows, ordering.column, cells, measurements) for rows in pairwise(ordering.rows)]


def overall(steps: Sequence[Difference]) -> str:
    """Verdict on a whole ordering: the worst of its steps."""
    verdicts = {step.verdict for step in steps}
    return next(verdict for verdict in (FAILS, UNDECIDED, NOT_MEASURED, HOLDS) if verdict in verdicts)


def comparison_section(differences: Sequence[Difference]) -> str:
    """Markdown section of paired differences."""
    text = (
        "First minus second, in points. The interval is of the difference on the same images (paired bootstrap); "
        "confidence is the share of "
        "resamples in which the first is the greater."
    )
    header = ["", "column", "paper", "measured", "95 % interval", "confidence", "n"]
    rows = [[_minus(step), escape(step.column), *_numbers(step)] for step in differences]
    return f"## Paired differences\n\n{text}\n\n{markdown_table(header, rows)}"


def ordering_section(ordering: Ordering, steps: Sequence[Difference]) -> str:
    """Markdown section on one ordering of the paper, and whether it holds in the measurement."""
    verdict = overall(steps)
    claim = f"The paper has, by {escape(ordering.column)}: {' > '.join(map(escape, ordering.rows))}."
    heading = f"## Order by {escape(ordering.column)}\n\n{claim} In the measurement this order: **{verdict}**"
    if verdict == NOT_MEASURED:
        return f"{heading}."
    held = sum(step.verdict == HOLDS for step in steps)
    header = ["step", "paper", "measured", "95 % interval", "confidence", "n", "verdict"]
    rows = [[_minus(step, ">"), *_numbers(step), step.verdict] for step in steps]
    return f"{heading} ({held} of {len(steps)} steps hold).\n\n{markdown_table(header, rows)}"


def differences_csv(differences: Sequence[Difference]) -> str:
    """One line per difference; empty where there is no number."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["first", "second", "column", "paper", "measured", "low", "high", "confidence", "n", "verdict"])
    for step in differences:
        measured = step.measured
        ours = (measured.value, measured.low, measured.high, measured.positive) if measured else (None,) * 4
        numbers = ["" if value is None else f"{value:.6f}" for value in (step.paper, *ours)]
        writer.writerow(
            [step.first, step.second, step.column, *numbers, "" if step.n is None else step.n, step.verdict]
        )
    return text.getvalue()


def _difference(first: str, second: str, column: str, cells: Sequence[Cell], measurements: Measurements) -> Difference:
    paper = {cell.row: cell.paper for cell in cells if cell.column == column}
    known = paper[first] is not None and paper[second] is not None
    ours, other = measurements[first], measurements[second]
    measured = ours.minus(other, column) if ours and other else None
    return Difference(
        first,
        second,
        column,
        paper[first] - paper[second] if known else None,
        measured,
        ours.n if ours and other else None,
    )


def _minus(step: Difference, sign: str = "\N{MINUS SIGN}") -> str:
    return f"{escape(step.first)} {sign} {escape(step.second)}"


def _numbers(step: Difference) -> list[str]:
    if step.measured is None:
        return [number(step.paper, signed=True), "", "", "", ""]
    low, high = step.measured.low, step.measured.high
    return [
        number(step.paper, signed=True),
        number(step.measured.value, signed=True),
        span(low, high, signed=True),
        _confidence(step.measured.positive),
        str(step.n),
    ]


def _confidence(share: float) -> str:
    """Share of resamples in percent; so many resamples as are drawn cannot tell 99.9 % from certainty."""
    if 0.001 <= share <= 0.999:
        return f"{100 * share:.1f} %"
    return "> 99.9 %" if share > 0.5 else "< 0.1 %"
