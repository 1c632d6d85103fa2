"""Rows are made orthonormal to round-off, whatever they are, and what is written of them gives them back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_chains.chain.basis import Basis

N, STEPS = 40, 12


def grown(basis, rows):
    """Put rows (B, steps, N) behind a first one, each made a unit vector."""
    first = basis.fixed
    for step in range(rows.shape[1]):
        row, length, new = basis.split(rows[:, step : step + 1], first + 1 + step)
        torch.div(row, length, out=new)
    return basis.rows[:, : first + 1 + rows.shape[1]]


def started(bases, dtype, fixed=1, steps=STEPS):
    basis = Basis(bases, N, fixed, 1, steps, dtype, torch.device("cpu"))
    basis.rows[:, : fixed + 1] = torch.eye(N, dtype=dtype)[: fixed + 1]
    return basis


@pytest.mark.parametrize("bases", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(1e-6, 1), fixed=st.integers(0, 1))
def test_rows_are_orthonormal_and_their_parts_give_them_back(bases, dtype, seed, spread, fixed):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(bases, 1, N, generator=generator, dtype=torch.float64)
    noise = torch.randn(bases, STEPS, N, generator=generator, dtype=torch.float64)
    rows = (common + spread * noise).to(dtype)  # the smaller the spread, the less is new in a row
    basis = started(bases, dtype, fixed)
    unit = grown(basis, rows).double()
    eps = torch.finfo(dtype).eps
    off = unit @ unit.mT - torch.eye(unit.shape[1], dtype=torch.float64)
    assert off.abs().max() <= 200 * eps
    rebuilt = basis.images.double()[:, :, : unit.shape[1]] @ unit
    assert (rebuilt - rows.double()).abs().max() <= 50 * eps * rows.abs().max()


@pytest.mark.parametrize("bases", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stay", [0.2, 0.5, 0.8, 0.88, 0.95])
def test_images_that_lean_on_the_last_row_blow_no_overlap_up(bases, dtype, stay):
    """Where a pass leaves a tenth of a row, an overlap of round-off would grow tenfold a step."""
    turn = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    basis = started(bases, dtype, steps=30)
    for place in range(2, 32):
        last = basis.rows[:, place - 1 : place]
        row, length, new = basis.split(stay * last + (1 - stay) * last @ turn.to(dtype), place)
        torch.div(row, length, out=new)
    unit = basis.rows.double()
    off = unit @ unit.mT - torch.eye(32, dtype=torch.float64)
    assert off.abs().max() <= 60 * torch.finfo(dtype).eps


def test_one_basis_alone_is_what_it_is_in_a_batch():
    rows = torch.randn(3, STEPS, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = grown(started(3, torch.float64), rows)
    for index in range(3):
        alone = grown(started(1, torch.float64), rows[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-14)


def test_selected_bases_go_on_as_they_would_have():
    rows = torch.randn(3, STEPS, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, part = started(3, torch.float64), started(3, torch.float64)
    grown(part, rows[:, :5])
    part.select(torch.tensor([0, 2]))
    for step in range(5, STEPS):
        row, length, new = part.split(rows[[0, 2], step : step + 1], 2 + step)
        torch.div(row, length, out=new)
    expected = grown(whole, rows)[[0, 2]]
    torch.testing.assert_close(part.rows[:, : expected.shape[1]], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("bases", [1, 2])
def test_of_a_row_within_the_span_no_more_than_round_off_is_left(bases):
    basis = started(bases, torch.float64)
    rows = torch.randn(bases, 4, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    unit = grown(basis, rows)
    within = torch.randn(bases, 1, unit.shape[1], dtype=torch.float64) @ unit
    _, length, _ = basis.split(within, unit.shape[1])
    assert (length <= 1e-14 * within.norm(dim=-1, keepdim=True)).all()
