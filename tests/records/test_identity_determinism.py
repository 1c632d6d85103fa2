"""The same identity is the same digest, everywhere; another identity is another."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_chains.records import RecordError, RunIdentity, open_shard, read_identity, run_folder

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
CONFIGS = st.recursive(
    st.dictionaries(st.text(), LEAVES, min_size=1),
    lambda inner: st.dictionaries(st.text(), inner | LEAVES | st.lists(LEAVES), min_size=1),
    max_leaves=12,
)


def reordered(value):
    """The same mappings with their keys in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return value


def of(config) -> RunIdentity:
    return RunIdentity(config, "ca", "weights", "data")


@given(CONFIGS)
def test_digest_does_not_depend_on_the_order_of_keys(config):
    assert of(config).digest == of(reordered(config)).digest


@given(CONFIGS, CONFIGS)
def test_digest_changes_with_the_config(first, second):
    assert (of(first).digest == of(second).digest) == (repr_sorted(first) == repr_sorted(second))


def repr_sorted(value) -> str:
    if isinstance(value, dict):
        return repr({key: repr_sorted(value[key]) for key in sorted(value)})
    return repr(value)


@pytest.mark.parametrize(
    ("part", "value"), [("config", {"n": 3}), ("protocol", "te"), ("weights", "other"), ("data", "other")]
)
def test_digest_changes_with_each_part(part, value):
    identity = of({"n": 2})
    assert replace(identity, **{part: value}).digest != identity.digest


def test_digest_does_not_confuse_the_parts():
    assert RunIdentity({}, "a", "b", "c").digest != RunIdentity({}, "b", "a", "c").digest


def test_digest_is_the_same_on_every_machine():
    assert of({"n": 2, "alpha": 0.99}).digest == "95cffae749cf660f595df0eca9a18d51d909d7af12751670b8c1ee986611e221"


def test_digest_is_the_same_in_another_process():
    program = (
        "from attention_chains.records import RunIdentity\n"
        "print(RunIdentity({'words': ['a', 'b'], 'n': 2}, 'ca', 'weights', 'data').digest)"
    )
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONHASHSEED": "7"}
    said = subprocess.run([sys.executable, "-c", program], check=True, env=environment, capture_output=True, text=True)
    assert said.stdout.strip() == of({"n": 2, "words": ("a", "b")}).digest


def test_identity_keeps_its_own_copy_of_the_config():
    config = {"method": {"n": 2}}
    identity = of(config)
    before = identity.digest
    config["method"]["n"] = 3
    assert identity.digest == before


def test_folder_is_named_by_task_model_and_short_digest():
    identity = of({"n": 2})
    folder = run_folder("results", "segmentation", "flux", identity)
    assert folder == Path(f"results/runs/segmentation-flux-{identity.short}")
    assert identity.digest.startswith(identity.short)
    assert len(identity.short) == 12


def test_identity_reads_back_from_its_folder(tmp_path):
    identity = of({"n": 2, "alpha": 0.1 + 0.2, "words": ["ü", None]})
    with open_shard(tmp_path, identity):
        pass
    assert read_identity(tmp_path) == identity


@pytest.mark.parametrize(
    ("value", "sentence"), [(math.nan, r"config\.alpha is nan"), (Path(), r"config\.alpha is of .*Path")]
)
def test_a_config_that_json_cannot_hold_is_refused_by_the_name_of_its_field(value, sentence):
    with pytest.raises(RecordError, match=sentence):
        of({"alpha": value})
