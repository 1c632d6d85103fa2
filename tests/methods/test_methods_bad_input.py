"""A method that does not exist, or a number out of its range, is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from attention_chains import methods
from attention_chains.chain.errors import ChainError
from attention_chains.methods import MethodError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "method"


@pytest.mark.parametrize("name", ["outgoign", "", "errors", "__init__", "../outgoing"])
def test_a_method_that_does_not_exist_is_told_those_that_do(name):
    with pytest.raises(MethodError) as refused:
        methods.bind(name, {})
    assert str(refused.value) == f"There is no method '{name}': choose one of {', '.join(methods.names('scores'))}."


@pytest.mark.parametrize("settings", [{"n": -1}, {"n": 1.5}, {"alpha": 0}, {"alpha": 1.5}], ids=str)
def test_a_number_out_of_range_is_refused_by_the_chain(attention, start, settings):
    with pytest.raises(ChainError):
        methods.bind("outgoing", settings)(attention, start)


def test_every_method_has_its_configuration_and_every_configuration_its_method():
    assert methods.names() == sorted(path.stem for path in CONFIGS.glob("*.yaml"))
