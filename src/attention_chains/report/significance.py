"""A table of tests (Table 9): the paper's test beside ours, and the same question asked image by image."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from io import StringIO
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from attention_chains import metrics
from attention_chains.config.errors import ConfigError
from attention_chains.metrics import MetricError
from attention_chains.metrics.significance import SignTest, Wilcoxon, sign_test, wilcoxon
from attention_chains.report.bootstrap import RESAMPLES, Interval
from attention_chains.report.experiment import caption_of_scale
from attention_chains.report.measurement import Measurement, Run, collect, metrics_of
from attention_chains.report.reading import REQUIRED, read_yaml, refuse_twice, refuse_unknown
from attention_chains.report.table import escape, markdown_table, number, span, write_texts

LEVEL = 0.05
_PER_IMAGE = (
    "The same two methods compared on every image: the difference of the data set's metric with its 95 % interval "
    f"(paired bootstrap over images, {RESAMPLES} resamples), and a one-sided sign test of the images' own numbers, a "
    "mean over the seeds. g is Cohen's (wins / (wins + losses) - 1/2: .05 small, .15 medium, .25 large), odds are "
    "wins / losses with their 95 % interval."
)


class Pairs(Enum):
    """What the paper's test pairs: the metric of each seed, or the accuracy of each layer (a mean over the seeds)."""

    seeds = "seeds"
    layers = "layers"


@dataclass
class Published:
    """The paper's numbers; its n is not printed, but follows from the statistic or the p-value."""

    statistic: float | None = None
    p: float | None = None
    n: int | None = None


@dataclass
class Test:
    """One test: whether the metric of `first` is greater than that of `second`.

    Attributes
    ----------
    label : str
        As the paper writes it.
    task, metric : str
        Whose records, and which of its metrics.
    first, second : str
        Labels of the two methods in the records.
    models : list of str
        Files of configs/model/ that hold the test's model, one for each scale.
    pairs : Pairs
    paper : Published
    """

    label: str = REQUIRED
    task: str = REQUIRED
    metric: str = REQUIRED
    first: str = REQUIRED
    second: str = REQUIRED
    models: list[str] = REQUIRED
    pairs: Pairs = REQUIRED
    paper: Published = field(default_factory=Published)


@dataclass
class TestDefinition:
    """A table of tests: the content of its table.yaml, checked."""

    title: str = REQUIRED
    tests: list[Test] = REQUIRED
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tested:
    """What one test gave; None where it could not be made.

    Attributes
    ----------
    test : Test
    pairs : Wilcoxon or None
        The paper's test.
    images : SignTest or None
        The test over images.
    difference : Interval or None
        Of the metric, first minus second, paired over the images.
    """

    test: Test
    pairs: Wilcoxon | None = None
    images: SignTest | None = None
    difference: Interval | None = None

    @property
    def verdict(self) -> str:
        """Whether the first is significantly greater at 5 %; with so few pairs that it never could be, that is said."""
        if self.pairs is None:
            return "not measured"
        if self.pairs.p < LEVEL:
            return "greater"
        unequal = self.pairs.n - self.pairs.equal
        return "not shown" if 0.5**unequal < LEVEL else f"n = {unequal} cannot show it"


def read_tests(path: Path) -> TestDefinition:
    """Read and check the table.yaml of a table of tests.

    Raises
    ------
    ConfigError
        When the file is missing or is not YAML, or a key, a type, a task or a metric in it is wrong.
    """
    definition = read_yaml(path, TestDefinition)
    refuse_twice([test.label for test in definition.tests], "tests", path)
    for test in definition.tests:
        where = f"test {test.label!r}"
        try:
            refuse_unknown([test.metric], list(metrics_of(test.task)), where, "metric", path)
        except MetricError as error:
            raise ConfigError(f"{path}: {where}: {error}") from None
        if test.pairs is Pairs.layers and not hasattr(metrics.of(test.task), "layer_accuracies"):
            raise ConfigError(f"{path}: {where} pairs layers, which task={test.task} does not measure; pair seeds.")
    return definition


def make_tests(definition: TestDefinition, runs: Sequence[Run], models: Collection[str] = ()) -> list[Tested]:
    """Make every test for which the runs are there.

    Parameters
    ----------
    definition : TestDefinition
    runs : sequence of Run
    models : collection of str
        Only runs of these models count; empty for all.

    Raises
    ------
    ReportError
        See `measurement.collect`.
    """
    return [_tested(test, runs, models) for test in definition.tests]


def _tested(test: Test, runs: Sequence[Run], models: Collection[str]) -> Tested:
    of_test = [model for model in test.models if not models or model in models]
    first, second = (collect(runs, test.task, method, of_test) for method in (test.first, test.second))
    if first is None or second is None:
        return Tested(test)
    difference = first.minus(second, test.metric)  # refuses different images
    pairs = wilcoxon(*(_paired(measured, test) for measured in (first, second)))
    images = sign_test(*(_of_images(measured, test.metric) for measured in (first, second)))
    return Tested(test, pairs, images, difference)


def _paired(measured: Measurement, test: Test) -> list[float] | np.ndarray:
    if test.pairs is Pairs.seeds:
        return list(measured.by_seed(test.metric).values())
    return metrics.of(test.task).layer_accuracies(measured.per_image.sum(axis=0), measured.n).mean(axis=0)  # (layers,)


def _of_images(measured: Measurement, metric: str) -> np.ndarray:
    """One number of each image, (n,): its own metric, a mean over the runs."""
    room = metrics.of(measured.task)
    if hasattr(room, "image_scores"):  # where the metric picks something on the whole data set, such as a learning rate
        return np.mean([room.image_scores(run) for run in np.moveaxis(measured.per_image, 1, 0)], axis=0)
    return np.asarray(room.summarise(measured.per_image, 1)[metric]).mean(axis=1)


def render_tests(
    name: str,
    definition: TestDefinition,
    runs: Sequence[Run],
    results: Path,
    scale: str,
    protocols: Sequence[str],
    measured_on: str,
    models: Collection[str] = (),
    skipped: int = 0,
) -> tuple[list[Tested], list[Path]]:
    """Make the tests and write results/<name>/<scale>/{table.md, table.csv}; arguments as in `Experiment.render`.

    Raises
    ------
    ReportError
        See `measurement.collect`.
    OSError
        When the files cannot be written.
    """
    tested = make_tests(definition, runs, models)
    texts = {
        "table.md": _markdown(
            definition, tested, runs, scale, protocols, f"{measured_on}; scale `{scale}`, {skipped} skipped"
        ),
        "table.csv": _as_csv(tested),
    }
    return tested, write_texts(results / name / scale, texts)


def console_tests(tested: Sequence[Tested], title: str) -> Table:
    """Rich table: statistic, p and n of each test, and the paper's in parentheses."""
    table = Table(title=title, caption="measured (paper)", box=SIMPLE_HEAD, padding=(0, 1), caption_justify="left")
    for heading in ("", "statistic", "p", "n", "first > second"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for each in tested:
        ours, paper = each.pairs, each.test.paper
        measured = (_plain(ours.statistic), _p(ours.p), str(ours.n)) if ours else ("", "", "")
        beside = (_plain(paper.statistic), _p(paper.p), "" if paper.n is None else str(paper.n))
        cells = [f"{a} ({b})" if b else a for a, b in zip(measured, beside, strict=True)]
        table.add_row(each.test.label, *cells, each.verdict)
    return table


def _markdown(
    definition: TestDefinition,
    tested: Sequence[Tested],
    runs: Sequence[Run],
    scale: str,
    protocols: Sequence[str],
    measured_on: str,
) -> str:
    named = ", ".join(f"`{run.name}`" for run in runs) or "none"
    parts = [
        f"# {definition.title}",
        f"Measured: {measured_on}.",
        f"Protocols {', '.join(f'`{each}`' for each in protocols)}. Runs: {named}.",
        caption_of_scale(scale),
        "## The paper's test",
        "One-sided Wilcoxon signed-rank test, first greater than second; n pairs can give no p below 1 / 2^n.",
        _pairs_table(tested),
        "## Image by image",
        _PER_IMAGE,
        _images_table(tested),
    ]
    if definition.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in definition.notes))
    return "\n\n".join(parts) + "\n"


def _pairs_table(tested: Sequence[Tested]) -> str:
    header = ["", "first", "second", "pairs", "paper: statistic", "p", "n (implied)", "measured: statistic", "p", "n"]
    rows = []
    for each in tested:
        test, ours, paper = each.test, each.pairs, each.test.paper
        equal = f" ({ours.equal} equal)" if ours and ours.equal else ""
        measured = [_plain(ours.statistic), _p(ours.p), f"{ours.n}{equal}"] if ours else ["", "", ""]
        published = [_plain(paper.statistic), _p(paper.p), "" if paper.n is None else str(paper.n)]
        named = [escape(test.label), escape(test.first), escape(test.second), test.pairs.value]
        rows.append([*named, *published, *measured, each.verdict])
    return markdown_table([*header, "first > second"], rows)


def _images_table(tested: Sequence[Tested]) -> str:
    header = ["", "difference", "95 % interval", "wins", "losses", "p", "g", "odds", "95 % interval", "n"]
    rows = []
    for each in tested:
        found, difference = each.images, each.difference
        if found is None or difference is None:
            rows.append([escape(each.test.label), *[""] * 9])
            continue
        unit = metrics_of(each.test.task)[each.test.metric].unit
        rows.append(
            [
                escape(each.test.label),
                number(difference.value, signed=True, unit=unit),
                span(difference.low, difference.high, signed=True, unit=unit),
                str(found.wins),
                str(found.losses),
                _p(found.p),
                number(found.cohens_g, signed=True, unit=""),
                _odds(found.odds_ratio),
                f"[{_odds(found.low)}, {_odds(found.high)}]",
                str(found.n),
            ]
        )
    return markdown_table(header, rows)


def _as_csv(tested: Sequence[Tested]) -> str:
    names = ["paper_statistic", "paper_p", "paper_n", "statistic", "p", "n", "equal", "difference", "low", "high"]
    names += ["wins", "losses", "image_p", "cohens_g", "odds_ratio", "odds_low", "odds_high", "images"]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["test", "task", "metric", "first", "second", "pairs", *names, "verdict"])
    for each in tested:
        test, paper = each.test, each.test.paper
        about = [test.label, test.task, test.metric, test.first, test.second, test.pairs.value]
        writer.writerow([*about, *map(_csv, [paper.statistic, paper.p, paper.n, *_numbers(each)]), each.verdict])
    return text.getvalue()


def _numbers(tested: Tested) -> list[float | int | None]:
    pairs, images, difference = tested.pairs, tested.images, tested.difference
    if pairs is None or images is None or difference is None:
        return [None] * 15
    return [
        *(pairs.statistic, pairs.p, pairs.n, pairs.equal),
        *(difference.value, difference.low, difference.high),
        *(images.wins, images.losses, images.p, images.cohens_g),
        *(images.odds_ratio, images.low, images.high, images.n),
    ]


def _csv(value: float | int | None) -> str:
    if value is None or isinstance(value, int):
        return "" if value is None else str(value)
    return f"{value:.6g}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _p(value: float | None) -> str:
    """As the paper prints it, three decimals; smaller ones by their order."""
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _odds(value: float) -> str:
    return "\N{EN DASH}" if np.isnan(value) else "\N{INFINITY}" if np.isinf(value) else f"{value:.2f}"
