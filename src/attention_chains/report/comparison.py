"""Which method is better: differences paired over the images, and whether the paper's orderings hold."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise

from attention_chains.metrics.metric import Metric
from attention_chains.report.bootstrap import Interval
from attention_chains.report.definition import Definition, Ordering
from attention_chains.report.measurement import Intervals, Measurement
from attention_chains.report.table import Cell, escape, markdown_table, number, published, span

Measurements = Mapping[tuple[str, str], Measurement | None]
"""By row label and column; None where nothing was measured."""

HOLDS, FAILS, UNDECIDED, NOT_MEASURED = "holds", "does not hold", "undecided", "not measured"
TIED = "equal in the paper"


@dataclass(frozen=True)
class Difference:
    """Difference of two rows in one column, first minus second, in the unit of its metric (points).

    Attributes
    ----------
    first, second, column : str
    paper : float or None
        Difference of the paper's numbers.
    measured : Interval or None
        Paired over the images. None unless both rows were measured.
    n : int or None
        Number of images.
    metric : Metric
        What the column measures.
    """

    first: str
    second: str
    column: str
    paper: float | None
    measured: Interval | None
    n: int | None
    metric: Metric

    @property
    def verdict(self) -> str:
        """Whether the first is the better; undecided where the interval of the difference holds zero, or is none."""
        if self.measured is None:
            return NOT_MEASURED
        above, below = self.measured.low > 0, self.measured.high < 0
        better, worse = (above, below) if self.metric.better == "higher" else (below, above)
        return HOLDS if better else FAILS if worse else UNDECIDED

    @property
    def confidence(self) -> float | None:
        """Share of the resamples in which the first is the better; None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured.positive if self.metric.better == "higher" else 1 - self.measured.positive

    @property
    def tied(self) -> bool:
        """Whether the paper prints the same number for both."""
        return self.paper is not None and round(self.paper, 9) == 0


def comparisons(definition: Definition, cells: Sequence[Cell], measurements: Measurements) -> list[Difference]:
    """Differences that the experiment asks for, in every column."""
    return [
        _difference(pair.first, pair.second, column, definition.metric_of(column), cells, measurements)
        for pair in definition.comparisons
        for column in definition.columns
    ]


def ordering_steps(
    definition: Definition, ordering: Ordering, cells: Sequence[Cell], measurements: Measurements
) -> list[Difference]:
    """Differences of neighbours in an ordering of the paper: it holds where in all of them the first is the better."""
    metric = definition.metric_of(ordering.column)
    return [_difference(*rows, ordering.column, metric, cells, measurements) for rows in pairwise(ordering.rows)]


def overall(steps: Sequence[Difference]) -> str:
    """Verdict on a whole ordering: the worst of its steps; one that is a tie in the paper says nothing."""
    verdicts = {step.verdict for step in steps if not step.tied}
    return next(verdict for verdict in (FAILS, UNDECIDED, NOT_MEASURED, HOLDS) if verdict in verdicts)


def comparison_section(differences: Sequence[Difference], intervals: Intervals) -> str:
    """Markdown section of paired differences, whose intervals came about as told."""
    text = (
        f"First minus second, in {_unit(differences)}. The interval is of the difference on the same images "
        f"({intervals.paired}); confidence is {intervals.confidence} the first is the {_better(differences)}."
    )
    header = ["", "column", "paper", "measured", "95 % interval", "confidence", "n"]
    rows = [[_minus(step), escape(step.column), *_numbers(step)] for step in differences]
    return f"## Paired differences\n\n{text}\n\n{markdown_table(header, rows)}"


def _unit(differences: Sequence[Difference]) -> str:
    units = {"points" if each.metric.unit == "%" else each.metric.name for each in differences}
    return units.pop() if len(units) == 1 else "the unit of its column"


def _better(differences: Sequence[Difference]) -> str:
    directions = {each.metric.better for each in differences}
    if len(directions) > 1:
        lower = dict.fromkeys(escape(each.metric.name) for each in differences if each.metric.better == "lower")
        return f"better ({', '.join(lower)}: the lower)"
    return "greater" if directions == {"higher"} else "lower, which is better"


def ordering_section(ordering: Ordering, steps: Sequence[Difference]) -> str:
    """Markdown section on one ordering of the paper, and whether it holds in the measurement."""
    verdict = overall(steps)
    by = _by(ordering, steps)
    heading = (
        f"## Order by {by}\n\nThe paper has, by {by}: {_order(steps)}. In the measurement this order: **{verdict}**"
    )
    if verdict == NOT_MEASURED:
        return f"{heading}."
    header = ["step", "paper", "measured", "95 % interval", "confidence", "n", "verdict"]
    rows = [[_minus(step, _sign(step)), *_numbers(step), TIED if step.tied else step.verdict] for step in steps]
    return f"{heading} ({_held(steps)} steps hold).\n\n{markdown_table(header, rows)}"


def orderings_section(orderings: Sequence[Ordering], steps: Sequence[Sequence[Difference]]) -> str:
    """Markdown section: which of the paper's orderings hold, one line each."""
    header = ["column", "the paper's order", "steps that hold", "verdict"]
    rows = [
        [_by(ordering, each), _order(each), _held(each), f"**{overall(each)}**"]
        for ordering, each in zip(orderings, steps, strict=True)
    ]
    text = (
        "An order holds where the 95 % interval of every step of it excludes zero on the paper's side; it does not "
        "hold where that of one step does so on the other side; else it is undecided."
    )
    return f"## Which of the paper's orders hold\n\n{markdown_table(header, rows)}\n\n{text}"


def _by(ordering: Ordering, steps: Sequence[Difference]) -> str:
    metric = steps[0].metric
    what = ordering.column if ordering.column == metric.name else f"{metric.name} of {ordering.column}"
    return escape(what) + ("" if metric.better == "higher" else " (lower is better)")


def _order(steps: Sequence[Difference]) -> str:
    return escape(steps[0].first) + "".join(f" {_sign(step)} {escape(step.second)}" for step in steps)


def _sign(step: Difference) -> str:
    return "=" if step.tied else ">" if step.metric.better == "higher" else "<"


def _held(steps: Sequence[Difference]) -> str:
    told = [step for step in steps if not step.tied]
    return f"{sum(step.verdict == HOLDS for step in told)} of {len(told)}"


def differences_csv(differences: Sequence[Difference]) -> str:
    """One line per difference; empty where there is no number."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["first", "second", "column", "paper", "measured", "low", "high", "confidence", "n", "verdict"])
    for step in differences:
        measured = step.measured
        ours = (measured.value, measured.low, measured.high, step.confidence) if measured else (None,) * 4
        numbers = ["" if value is None else f"{value:.6f}" for value in (step.paper, *ours)]
        writer.writerow(
            [step.first, step.second, step.column, *numbers, "" if step.n is None else step.n, step.verdict]
        )
    return text.getvalue()


def _difference(
    first: str, second: str, column: str, metric: Metric, cells: Sequence[Cell], measurements: Measurements
) -> Difference:
    paper = {cell.row: cell.paper for cell in cells if cell.column == column}
    known = paper[first] is not None and paper[second] is not None
    ours, other = measurements[first, column], measurements[second, column]
    measured = ours.minus(other, metric.name) if ours and other else None
    return Difference(
        first,
        second,
        column,
        paper[first] - paper[second] if known else None,
        measured,
        ours.n if ours and other else None,
        metric,
    )


def _minus(step: Difference, sign: str = "\N{MINUS SIGN}") -> str:
    return f"{escape(step.first)} {sign} {escape(step.second)}"


def _numbers(step: Difference) -> list[str]:
    unit, decimals = step.metric.unit, step.metric.decimals
    paper = published(step.paper, signed=True, decimals=decimals)
    if step.measured is None:
        return [paper, "", "", "", ""]
    low, high = step.measured.low, step.measured.high
    return [
        paper,
        number(step.measured.value, signed=True, unit=unit, decimals=decimals),
        span(low, high, signed=True, unit=unit, decimals=decimals),
        _confidence(step.confidence),
        str(step.n),
    ]


def _confidence(share: float) -> str:
    """Share of resamples in percent; so many resamples as are drawn cannot tell 99.9 % from certainty."""
    if 0.001 <= share <= 0.999:
        return f"{100 * share:.1f} %"
    return "> 99.9 %" if share > 0.5 else "< 0.1 %"
