"""A configuration that cannot be run is refused in one sentence that names the key and the way out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attention_chains.config import ConfigError, RunConfig, ShardConfig
from attention_chains.config.checks import check, check_fits
from attention_chains.config.explain import schema_keys
from attention_chains.config.nearest import nearest

KEYS = list(schema_keys(RunConfig))

SENTENCES = {
    "method=outgoign": "method=outgoign does not exist: method is one of center_column, center_row, cls, "
    "column_select, column_sum, diffseg, incoming, none, outgoing, random, random_row, row_select, sag_column_sum, "
    "sag_tokenrank, tokenrank, tokenrank_grid, uniform_grid; did you mean outgoing?",
    "scale=huge": "scale=huge does not exist: scale is one of mini, paper.",
    "experiment=table77": "did you mean table7?",
    "metod=outgoing": "There is no key 'metod'; did you mean method",
    "model.imagesize=96": "There is no key 'model.imagesize'; did you mean model.image_size",
    "model.at.mini.imagesize=96": "did you mean model.at.mini.image_size",
    "+method.nn=3": "There is no key 'method.nn'; did you mean method.n",
    "+verbose=true": "There is no key 'verbose'",
    "n=3": "There is no key 'n'; did you mean method.n or data.n?",
    "methods.outgoing.n=3": "There is no key 'methods.outgoing.n'; did you mean",
    "method.n=two": "method.n cannot be set so: Value 'two'",
    "method.n=1.5": "method.n cannot be set so: Value '1.5'",
    "seed=null": "seed cannot be set so",
    "method.power=3": "method.power is 3, but task=segmentation has no use for it with outgoing: "
    "its keys are n, alpha, heads, stream.",
    "method.budget=lambda2": "method.budget is lambda2, but task=segmentation has no use for it with outgoing",
    "method.heads=random": "method.heads is random, but task=segmentation mixes heads by lambda2 or uniform",
    "+models.huge=[flux]": "models.huge is of no scale; name the models of mini or paper.",
    "model.dual_layers=[0,x]": "model.dual_layers[1] cannot be set so: Value 'x'",
    "method.n=-1": "method.n is -1, but it must be at least 0 (bounces).",
    "method.alpha=0": "method.alpha is 0.0, but it must be above 0 and at most 1",
    "method.alpha=1.01": "method.alpha is 1.01, but it must be above 0 and at most 1",
    "method.alpha=nan": "method.alpha is nan, but it must be above 0 and at most 1",
    "task.noise=0": "task.noise is 0.0, but it must be above 0 and at most 1",
    "method.heads=mean": "method.heads cannot be 'mean'; it is one of lambda2, uniform, random.",
    "device=gpu": "device cannot be 'gpu'; it is one of auto, cpu, cuda, cuda:1, mps.",
    "model.dual_layers=[0,-1]": "model.dual_layers is -1, but it must be at least 0",
    "shard.index=1": "shard.index is 1, but with shard.count=1 it must be from 0 to 0.",
    "model=flux_dev": "model=flux_dev has no checkpoint at scale=mini; it has one at scale=paper.",
    "data.prompt='a {wrod}'": "data.prompt has '{wrod}', but only {word} and {caption} can be filled in.",
    "data.prompt='a {word'": "data.prompt 'a {word' is not a template",
    "nonsense": "'nonsense' cannot be read as key=value",
    "method.n=[1,2": "'method.n=[1,2' cannot be read as key=value",
    "method.n=1,2": "'method.n=1,2' gives several values; add -m for a job each",
    "+experiment=table7": "experiment has a choice already; write experiment=... without the plus sign.",
    "data=null": "A group takes the name of one of its options",
    "~method": "method.name has no value; give one with method.name=...",
}


@pytest.fixture(scope="module")
def configured_once(configured) -> RunConfig:
    return configured()


@pytest.mark.parametrize("override", SENTENCES)
def test_a_refusal_is_one_line_that_names_the_key_and_the_way_out(override, refused):
    sentence = refused(override)
    assert SENTENCES[override] in sentence
    assert "\n" not in sentence and "https://" not in sentence


def test_a_one_bounce_method_refuses_more_bounces(refused):
    sentence = refused("method=row_select", "method.n=3")
    assert "row_select is one bounce by definition; for more bounces use incoming" in sentence


@pytest.mark.parametrize(
    ("overrides", "said"),
    {
        "data.n=499": "data.n is 499, fewer than the 500 images of a KID subset: raise it, or lower data.kid_subset.",
        "data.reference_n=400": "data.reference_n is 400, fewer than the 500 images of a KID subset",
        "scale=paper data.n=900": "data.n is 900, fewer than the 1000 images of a KID subset",
        "task.mask_cap=0": "task.mask_cap is 0.0, but it must be above 0 and at most 1",
        "data.extractor=resnet": "data.extractor cannot be 'resnet'; it is one of mini-vit, inception-v3-compat.",
        "method.n=2": "method.n is 2, but task=generation has no use for it with sag_tokenrank: its keys are alpha.",
    }.items(),
)
def test_generation_that_cannot_be_measured_is_refused_before_it_starts(overrides, said, refused):
    assert said in refused("task=generation", *overrides.split())


@pytest.mark.parametrize("given", ["n=2", "stream=dual", "budget=random"])
def test_a_key_that_a_ranking_does_not_take_is_refused(given, refused):
    sentence = refused("task=probing", "model=flux", "data=digit_scenes", "method=cls", f"+method.{given}")
    assert f"method.{given.partition('=')[0]} is {given.partition('=')[2]}, but task=probing has no use" in sentence
    assert "with cls: its keys are heads." in sentence


@pytest.mark.parametrize(
    ("overrides", "said"),
    {
        "task=generation task.sag_scale=null": "task.sag_scale has no value, but task=generation with model=sd15 needs",
        "task=diffseg task.tau=null": "task.tau has no value, but task=diffseg with model=sd15 needs one",
        "task=diffseg task.sag_scale=2": "task.sag_scale is 2.0, but task=diffseg with model=sd15 has no use for it",
        "task=segmentation model=sd15": "task.noise is 0.5, but task=segmentation with model=sd15 has no use for it",
        "task=masking task.tau=1": "task.tau is 1.0, but task=masking with model=vit has no use for it: its keys are",
        "task=masking model=flux": "task=masking cannot be run with model=flux, which is of the family flux",
    }.items(),
)
def test_a_task_needs_its_keys_and_has_no_use_for_others(overrides, said, configured):
    with pytest.raises(ConfigError) as refusal:
        check_fits(configured(*overrides.split()))
    assert said in str(refusal.value)


@pytest.mark.parametrize("task", ["segmentation", "segments", "masking", "probing", "generation", "diffseg"])
def test_every_task_has_its_keys_as_it_is(task, configured):
    check_fits(configured(f"task={task}"))


def test_a_prompt_is_checked_where_there_is_one(configured):
    assert configured("data.prompt=null").data.prompt is None


@pytest.mark.parametrize("override", ["method.n=3", "method=incoming"])
def test_a_method_beside_an_experiment_is_refused_because_it_would_change_nothing(override, refused):
    assert f"'{override}' would change nothing" in refused("experiment=table7", override)


@given(st.sampled_from(KEYS), st.data())
def test_a_key_with_one_letter_missing_is_told_its_right_name(key, data):
    section, dot, name = key.rpartition(".")
    at = data.draw(st.integers(0, len(name) - 1))
    mistyped = f"{section}{dot}{name[:at]}{name[at + 1 :]}"
    assume(len(name) > 2 and mistyped not in KEYS)
    assert key in nearest(mistyped, KEYS)


@given(alpha=st.floats())
def test_alpha_is_taken_inside_its_range_and_refused_outside(configured_once, alpha):
    run = replace(configured_once, method=replace(configured_once.method, alpha=alpha))
    if 0 < alpha <= 1:
        check(run)
    else:
        with pytest.raises(ConfigError, match=r"method\.alpha is .* must be above 0 and at most 1"):
            check(run)


@given(count=st.integers(1, 64), index=st.integers(0, 128))
def test_a_shard_is_taken_below_the_count_and_refused_beyond(configured_once, count, index):
    run = replace(configured_once, shard=ShardConfig(index, count))
    if index < count:
        check(run)
    else:
        with pytest.raises(ConfigError, match=f"from 0 to {count - 1}"):
            check(run)
