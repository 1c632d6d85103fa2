"""A sample is the same wherever it is generated.

Its picture and its record are the same bytes for any batch size, in any place of any batch, beside any others, in any
shard and after any interruption, because the model runs on batches that are filled up to one width. Another width is
other kernels and other rounding, so that between widths samples agree within a tolerance.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from attention_chains import methods
from attention_chains.tasks.sampling import Guidance, sample

METHODS = ("none", "sag_column_sum", "sag_tokenrank")
SALIENCIES = {name: methods.bind(name, {}, kind="saliency") for name in METHODS}
CHOSEN = Guidance("up_blocks.2.attentions.2", cap=0.4)


def files(outcome):
    return {path.relative_to(outcome.folder): path.read_bytes() for path in outcome.folder.rglob("*.png")}


@pytest.fixture
def four(tiny):
    return tiny.noise(range(4))


@pytest.mark.parametrize("name", METHODS)
def test_neither_the_place_in_a_batch_nor_the_others_change_a_bit(tiny, four, name):
    whole = sample(tiny, four, [""] * 4, CHOSEN, SALIENCIES[name])
    order = torch.tensor([3, 1, 0, 2])
    shuffled = sample(tiny, four[order], [""] * 4, CHOSEN, SALIENCIES[name])
    assert torch.equal(shuffled.latents, whole.latents[order]) and torch.equal(shuffled.masked, whole.masked[order])
    filled = sample(tiny, four[[1, 3, 3, 3]], [""] * 4, CHOSEN, SALIENCIES[name])
    assert torch.equal(filled.latents[:2], whole.latents[[1, 3]])


@pytest.mark.parametrize("name", METHODS)
def test_the_size_of_a_batch_changes_a_sample_by_no_more_than_rounding(tiny, four, name):
    whole = sample(tiny, four, [""] * 4, CHOSEN, SALIENCIES[name])
    alone = [sample(tiny, four[row : row + 1], [""], CHOSEN, SALIENCIES[name]).latents for row in range(4)]
    torch.testing.assert_close(torch.cat(alone), whole.latents, rtol=0, atol=1e-4)


def test_shards_in_any_order_give_the_same_pictures_and_records_as_one_run(generate):
    whole = generate(several=METHODS[1:], out="whole")
    for index in (1, 0):  # of three and two samples, in batches of two
        part = generate("shard.count=2", f"shard.index={index}", several=METHODS[1:], out="shards")
    assert part.complete and part.records == whole.records and files(part) == files(whole)
    assert len(files(whole)) == 10


def test_a_method_gives_the_same_alone_and_beside_others(generate):
    together = generate("data.n=2", several=METHODS, out="together")
    alone = generate("data.n=2", several=("sag_tokenrank",), out="alone")
    kept = [{"sag_tokenrank": record["stats"]["sag_tokenrank"]} for record in together.records]
    assert [record["stats"] for record in alone.records] == kept
    assert files(alone).items() <= files(together).items()


def test_a_longer_run_begins_with_the_same_samples(generate):
    short, long = generate("data.n=3"), generate("data.n=5")
    assert long.records[:3] == short.records


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_the_batch_size_changes_nothing(generate, batch_size):
    two, other = generate(out="two"), generate(f"batch_size={batch_size}", out="other")
    assert two.folder.name == other.folder.name  # the same run
    assert two.records == other.records and files(two) == files(other)


def test_pictures_of_two_widths_are_alike_and_of_two_runs(generate):
    one, many = generate("task.width=1", out="one"), generate("task.width=5", out="many")
    assert one.folder.name != many.folder.name
    for path in files(one):
        first, second = (np.asarray(Image.open(each.folder / path)).astype(int) for each in (one, many))
        assert np.abs(first - second).max() <= 1
