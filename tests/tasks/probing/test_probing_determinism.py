"""The same command gives the same bits, whatever the batch or the shards; another seed gives others."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from attention_chains.config import MethodConfig

METHODS = {
    "rank": MethodConfig(name="tokenrank", power=20),
    "sum": MethodConfig(name="column_sum"),
    "row": MethodConfig(name="random_row"),
}


def classifiers(outcome) -> dict[str, np.ndarray]:
    files = sorted((outcome.folder / "classifiers").glob("*.safetensors"))
    return {f"{path.stem}.{name}": values for path in files for name, values in load_file(path).items()}


def stats(outcome) -> list:
    return [record["stats"] for record in outcome.records]


def test_the_same_command_gives_the_same_bytes(probe):
    first, second = (probe(out=out, **METHODS)[0] for out in ("one", "two"))
    assert first.folder.name == second.folder.name
    for kind in ("classifiers/*.safetensors", "*.jsonl"):
        one, two = (sorted(outcome.folder.glob(kind)) for outcome in (first, second))
        assert one and [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing_but_rounding(probe, batch_size):
    first, second = probe(out="one", **METHODS)[0], probe(f"batch_size={batch_size}", out="two", **METHODS)[0]
    assert first.folder.name == second.folder.name and stats(first) == stats(second)
    for name, values in classifiers(first).items():
        np.testing.assert_allclose(classifiers(second)[name], values, atol=1e-4)


def test_shards_in_any_order_give_the_same_records(probe):
    (whole,) = probe(out="one", **METHODS)
    probe("shard.count=3", "shard.index=2", out="two", **METHODS)
    probe("shard.count=3", "shard.index=0", out="two", **METHODS)
    (merged,) = probe("shard.count=3", "shard.index=1", out="two", **METHODS)
    assert merged.complete and merged.records == whole.records


def test_a_seed_changes_the_start_and_what_is_drawn_and_nothing_else(probe, tmp_path):
    first, second = probe("repeats=2", **METHODS)
    one, two = classifiers(first), classifiers(second)
    assert all(not np.array_equal(one[name], two[name]) for name in one if name.endswith("weight"))
    names = [path.name.partition("-")[0] for path in (tmp_path / "results" / "features").glob("*/*.npy")]
    assert sorted(names) == ["column_sum"] * 2 + ["random_row"] * 4 + ["tokenrank"] * 2


def test_a_repeat_is_what_a_run_of_its_seed_is(probe):
    _, repeat = probe("repeats=2", out="one", **METHODS)
    (alone,) = probe("seed=1", out="two", **METHODS)
    assert repeat.folder.name == alone.folder.name and repeat.records == alone.records


def test_a_method_gives_the_same_whatever_runs_beside_it(probe):
    (together,) = probe(out="one", **METHODS)
    (alone,) = probe(out="two", row=METHODS["row"])
    assert [each["row"] for each in stats(together)] == [each["row"] for each in stats(alone)]
    assert np.array_equal(classifiers(together)["row.weight"], classifiers(alone)["row.weight"])


def test_images_beyond_those_asked_for_change_nothing(probe):
    (few,), (many,) = probe(out="one", **METHODS), probe("data.n=9", out="two", **METHODS)
    assert stats(many)[:7] == stats(few)
