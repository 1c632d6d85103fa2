"""A ranking that does not exist, or a key that it does not take, is refused in one sentence."""

from __future__ import annotations

from typing import get_args

import pytest

from attention_chains import methods
from attention_chains.methods import MethodError


def test_each_method_is_of_one_kind():
    kinds = {kind: methods.names(kind) for kind in get_args(methods.Kind)}
    assert sorted(name for names in kinds.values() for name in names) == methods.names()
    assert kinds["scores"] == ["column_select", "incoming", "outgoing", "row_select"]
    assert kinds["saliency"] == ["none", "sag_column_sum", "sag_tokenrank"]


@pytest.mark.parametrize(("name", "kind"), [("outgoing", "ranking"), ("tokenrank", "scores")])
def test_a_method_of_the_other_kind_is_told_those_of_this_one(name, kind):
    with pytest.raises(MethodError) as refused:
        methods.bind(name, {}, kind=kind)
    assert str(refused.value) == f"Method '{name}' gives no {kind}: choose one of {', '.join(methods.names(kind))}."


def test_a_ranking_that_does_not_exist_is_told_those_that_do():
    with pytest.raises(MethodError, match="no method 'token_rank': choose one of center_column, center_row, cls, "):
        methods.bind("token_rank", {}, kind="ranking")


def test_a_key_that_a_method_does_not_take_is_named_with_those_that_it_takes():
    with pytest.raises(MethodError) as refused:
        methods.bind("tokenrank", {"power": 20, "stream": "dual"}, kind="ranking")
    assert str(refused.value) == "Method 'tokenrank' does not take 'stream': its keys are power, alpha."
    with pytest.raises(MethodError) as refused:
        methods.bind("cls", {"power": 20}, kind="ranking")
    assert str(refused.value) == "Method 'cls' does not take 'power': it has no keys."
    with pytest.raises(MethodError, match="'row_select' does not take 'n': its keys are alpha, heads, stream"):
        methods.bind("row_select", {"n": 1})


def test_a_key_without_a_value_is_left_to_the_method():
    assert methods.bind("cls", {"power": None, "n": None}, kind="ranking").keywords == {}
    assert methods.bind("tokenrank", {"power": 5, "alpha": None}, kind="ranking").keywords == {"power": 5}
