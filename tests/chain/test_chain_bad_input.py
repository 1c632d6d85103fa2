"""Input that is no chain, start or setting is refused with one sentence that says what, where, and what to do."""

import re

import numpy as np
import pytest
import torch

from attention_chains.chain import AttentionChain, ChainError

HALF = torch.full((2, 3, 4, 4), 0.25)


def spoiled(value, at):
    matrix = HALF.clone()
    matrix[at] = value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (
            spoiled(torch.nan, (1, 0, 2, 3)),
            r"attention row 2 of batch element \(1, 0\) holds nan at token 3: .* masked",
        ),
        (spoiled(torch.inf, (0, 2, 1, 0)), r"attention row 1 of batch element \(0, 2\) holds inf at token 0"),
        (spoiled(-0.5, (0, 0, 3, 1)), r"row 3 of batch element \(0, 0\) holds -0.5 at token 1: pass attention after"),
        (torch.tensor([[1.0, 0.0], [0.6, 0.5]]), r"attention row 1 sums to 1.1, off by 0.1 \(1 of 2 rows"),
        (spoiled(0.5, (1, 1, 2, 0)), r"row 2 of batch element \(1, 1\) sums to 1.25, off by 0.25 \(1 of 24 rows"),
        (torch.zeros(3, 3), r"row 0 sums to 0, off by 1 \(3 of 3 rows .*: divide each row by its sum, or pass scores"),
        (torch.randn(4, 5), r"attention must be square, .*, got \(4, 5\)"),
        (torch.ones(4), r"attention must be square, .*, got \(4,\)"),
        (torch.ones(2, 0, 0), r"with n of at least 1, got \(2, 0, 0\)"),
        (torch.eye(3, dtype=torch.long), r"got a tensor of torch.int64"),
        (torch.eye(3, dtype=torch.complex64), r"got a tensor of torch.complex64"),
        (np.eye(3), r"attention must be a tensor of .*, got ndarray"),
    ],
)
def test_a_matrix_that_is_no_chain(matrix, sentence):
    with pytest.raises(ChainError, match=sentence):
        AttentionChain(matrix)


@pytest.mark.parametrize(
    ("dtype", "off"), [(torch.float16, 3e-3), (torch.bfloat16, 2e-2), (torch.float32, 5e-5), (torch.float64, 5e-6)]
)
def test_row_sums_are_checked_within_what_the_type_can_hold(dtype, off):
    entry = torch.tensor([[0.5, 0.5 + off], [0.5, 0.5]], dtype=torch.float64)
    AttentionChain(entry.to(dtype))
    entry[0, 1] += 4 * off
    with pytest.raises(ChainError, match=r"row 0 sums to 1\.\d+, off by"):
        AttentionChain(entry.to(dtype))


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (torch.tensor([[0.0, torch.nan], [0, 0]]), r"scores row 0 holds nan at token 1: only -inf"),
        (torch.tensor([[0.0, 0], [torch.inf, 0]]), r"scores row 1 holds inf at token 0"),
        (torch.tensor([[0.0, 0], [-torch.inf, -torch.inf]]), r"scores row 1 is -inf at every token: leave it a key"),
        (torch.zeros(2, 3), r"scores must be square"),
        (torch.zeros(3, 3, dtype=torch.int32), r"scores must be a tensor of .*, got a tensor of torch.int32"),
    ],
)
def test_scores_that_give_no_chain(scores, sentence):
    with pytest.raises(ChainError, match=sentence):
        AttentionChain.from_scores(scores)


BATCH = AttentionChain(HALF)
ONE = AttentionChain(torch.eye(4))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: BATCH.bounce(4), r"start 4 is out of range: the tokens are 0 to 3"),
        (lambda: BATCH.bounce(-1), r"start -1 is out of range"),
        (lambda: BATCH.bounce(torch.tensor([0, 7, 1])), r"start 7 is out of range"),
        (lambda: BATCH.bounce(torch.tensor([0, 1])), r"start has batch dimensions \(2,\), which do not fit \(2, 3\)"),
        (
            lambda: BATCH.bounce("unifrom"),
            r"start must be a token index, \"uniform\" or a distribution .*, got 'unifrom'",
        ),
        (lambda: BATCH.bounce(None), r"start must be .*, got NoneType"),
        (lambda: BATCH.bounce(1.5), r"start must be .*, got float"),
        (lambda: BATCH.bounce(True), r"start must be .*, got bool"),
        (lambda: BATCH.bounce(torch.ones(4, dtype=torch.bool)), r"start must be .*, got torch.bool"),
        (lambda: BATCH.bounce(torch.ones(4)), r"start sums to 4, off by 3: divide it by its sum"),
        (lambda: BATCH.bounce(torch.tensor([0.5, 0.5])), r"start has shape \(2,\), .* must be the 4 tokens"),
        (lambda: BATCH.bounce(torch.tensor(0.5)), r"start has shape \(\), .* must be the 4 tokens"),
        (lambda: BATCH.bounce(torch.tensor([1.5, -0.5, 0, 0])), r"start holds -0.5 at token 1"),
        (lambda: BATCH.bounce(torch.tensor([torch.nan, 0, 0, 1])), r"start holds nan at token 0"),
        (lambda: BATCH.bounce(torch.full((5, 4), 0.25)), r"start has batch dimensions \(5,\)"),
        (lambda: BATCH.bounce(0, n=-1), r"number of bounces must be an integer of at least 0, got -1"),
        (lambda: BATCH.bounce(0, n=1.0), r"number of bounces .*, got 1.0"),
        (lambda: BATCH.bounces(0, n=-2), r"number of bounces .*, got -2"),
        (lambda: BATCH.step(torch.ones(5)), r"state has shape \(5,\), .* must be the 4 tokens"),
        (lambda: BATCH.step([1, 0, 0, 0]), r"state must be a tensor of floats over the tokens, got list"),
        (lambda: BATCH.teleport(0), r"alpha must be a number in \(0, 1\], got 0"),
        (lambda: BATCH.teleport(1.01), r"alpha must be a number in \(0, 1\], got 1.01"),
        (lambda: BATCH.teleport(float("nan")), r"alpha must be .*, got nan"),
        (lambda: BATCH.teleport("0.9"), r"alpha must be .*, got '0.9'"),
        (lambda: BATCH.teleport(0.9, torch.ones(4)), r"teleport target sums to 4, off by 3"),
        (lambda: BATCH.teleport(0.9, torch.ones(3) / 3), r"teleport target has shape \(3,\)"),
        (lambda: ONE.teleport(0.9, torch.full((2, 4), 0.25)), r"target has batch dimensions \(2,\), but .* only \(\)"),
        (lambda: BATCH.lazy(1), r"stay must be a number in \[0, 1\), got 1"),
        (lambda: BATCH.lazy(-0.1), r"stay must be a number in \[0, 1\), got -0.1"),
        (lambda: BATCH.drop(4), r"token to drop 4 is out of range: the tokens are 0 to 3"),
        (lambda: BATCH.drop([0.5]), r"tokens to drop must be integer indices, got a tensor of torch.float32"),
        (lambda: BATCH.drop(None), r"tokens to drop must be integer indices, got NoneType"),
        (lambda: BATCH.drop(range(4)), r"dropping 4 tokens leaves nothing of a chain of 4: keep at least one"),
        (lambda: AttentionChain(torch.eye(3)[[1, 1, 2]]).drop(1), r"attention row 0 goes to dropped tokens only"),
        (lambda: AttentionChain(torch.eye(3)[[0, 0, 0]]).drop(0), r"attention row 1 goes to dropped tokens only"),
        (lambda: BATCH.tokenrank(tol=0), r"tol must be a number above 0, got 0"),
        (lambda: BATCH.tokenrank(tol=float("nan")), r"tol must be a number above 0, got nan"),
        (lambda: BATCH.lambda2(tol=-1), r"tol must be a number above 0, got -1"),
        (lambda: ONE.mix(), r"no batch dimension -1 to mix: the chain's batch dimensions are \(\)"),
        (lambda: BATCH.mix(dim=2), r"no batch dimension 2 to mix: .* \(2, 3\)"),
        (lambda: BATCH.mix("lambda"), r"weights must be \"uniform\", \"lambda2\" or a tensor .*, got 'lambda'"),
        (lambda: BATCH.mix(torch.ones(2)), r"a tensor of shape \(3,\) or \(2, 3\), got \(2,\)"),
        (lambda: BATCH.mix(torch.tensor([1.0, -1, 1])), r"weights must be finite and not negative"),
        (lambda: BATCH.mix(torch.zeros(3)), r"weights must be .* above zero for at least one"),
        (lambda: BATCH @ AttentionChain(torch.eye(3)), r"cannot chain 4 tokens with 3"),
        (lambda: BATCH @ AttentionChain(HALF[0, :2]), r"batch dimensions \(2, 3\), which do not fit \(2,\)"),
    ],
)
def test_a_call_that_makes_no_sense(call, sentence):
    with pytest.raises(ChainError, match=sentence):
        call()


def test_every_refusal_is_one_sentence_and_a_value_error():
    with pytest.raises(ValueError) as refusal:
        AttentionChain(torch.zeros(3, 3))
    assert "\n" not in str(refusal.value)
    assert not re.search(r"\.\s+[A-Z]", str(refusal.value))


def test_chaining_with_something_else_is_a_type_error():
    with pytest.raises(TypeError):
        BATCH @ HALF
