"""The examples in the docstrings run and show what is true."""

import doctest

import pytest
import torch

from attention_chains.chain import AttentionChain, attention_chain

PUBLIC = [name for name in vars(AttentionChain) if not name.startswith("_")]


def test_examples_run_and_are_true(fig2):
    chain = AttentionChain(fig2.matrix().float())
    names = {"torch": torch, "AttentionChain": AttentionChain, "chain": chain}
    results = doctest.testmod(attention_chain, extraglobs=names)
    assert results.failed == 0
    assert results.attempted >= 15


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name):
    assert getattr(AttentionChain, name).__doc__
