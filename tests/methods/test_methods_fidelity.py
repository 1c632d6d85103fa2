"""Every method is what the paper says, written out in matrix algebra (protocol 0.2, 1.3)."""

from __future__ import annotations

import pytest
import torch

from attention_chains import methods

SETTINGS = [
    {"alpha": alpha, "heads": heads, "stream": stream}
    for alpha in (1.0, 0.99, 0.5)
    for heads in ("uniform", "lambda2")
    for stream in ("dual", "single")
]


def mean_of_heads(attention, heads, stream):
    matrix = attention.heads(stream).matrix()  # (B, H, n, n)
    weights = torch.ones(matrix.shape[:2], dtype=torch.float64)
    if heads == "lambda2":
        weights = torch.linalg.eigvals(matrix).abs().sort(-1).values[..., -2]
    return (matrix * weights[..., None, None]).sum(1) / weights.sum(1)[:, None, None]


def bounced(start, matrix, n):
    for _ in range(n):
        start = torch.einsum("bi,bij->bj", start, matrix)
    return start


def expected(attention, start, direction, n, alpha, heads, stream):
    matrix = alpha * mean_of_heads(attention, heads, stream) + (1 - alpha) / start.shape[-1]
    if direction == "outgoing":
        matrix = (matrix / matrix.sum(-2, keepdim=True)).mT
    return bounced(start, matrix, n)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("n", range(4))
@pytest.mark.parametrize("name", ["incoming", "outgoing"])
def test_n_bounces(attention, start, name, n, settings):
    found = methods.bind(name, {"n": n, **settings})(attention, start)
    torch.testing.assert_close(found, expected(attention, start, name, n, **settings), atol=1e-10, rtol=0)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("name", "direction"), [("row_select", "incoming"), ("column_select", "outgoing")])
def test_selecting_a_row_or_a_column_is_the_first_bounce(attention, start, name, direction, settings):
    found = methods.bind(name, settings)(attention, start)
    assert torch.equal(found, methods.bind(direction, {"n": 1, **settings})(attention, start))


def test_without_teleport_row_select_is_the_words_row_and_column_select_its_column_up_to_a_constant(attention, start):
    matrix = mean_of_heads(attention, "uniform", "dual")
    plain = {"alpha": 1.0, "heads": "uniform"}
    row = methods.bind("row_select", plain)(attention, start)
    column = methods.bind("column_select", plain)(attention, start)
    torch.testing.assert_close(row[0], matrix[0, 2], atol=1e-12, rtol=0)
    torch.testing.assert_close(column[0], matrix[0, :, 2] / matrix[0, :, 2].sum(), atol=1e-12, rtol=0)


def test_the_settings_of_the_paper_are_the_defaults(attention, start):
    paper = {"alpha": 0.99, "heads": "lambda2", "stream": "dual"}
    for name in methods.names("scores"):
        n = {"n": 2} if name in ("incoming", "outgoing") else {}
        assert torch.equal(
            methods.bind(name, {})(attention, start), methods.bind(name, {**n, **paper})(attention, start)
        )


@pytest.mark.parametrize("name", ["incoming", "outgoing"])
def test_no_bounce_is_the_start(attention, start, name):
    assert torch.equal(methods.bind(name, {"n": 0})(attention, start), start)


def test_every_score_is_a_distribution_over_the_tokens(attention, start):
    for name in methods.names("scores"):
        scores = methods.bind(name, {})(attention, start)
        assert scores.shape == start.shape and (scores >= 0).all()
        torch.testing.assert_close(scores.sum(-1), torch.ones(2, dtype=torch.float64))
