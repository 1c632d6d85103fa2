"""A large matrix times one state by bags of rows: as right as any product, the same for any number of threads."""

import pytest
import torch
from heads import heads
from torch.autograd import forward_ad

from attention_chains.chain import AttentionChain, products
from attention_chains.chain.operators import DenseOperator, bouncing

EPS = torch.finfo(torch.float32).eps
SIZES = (products.LEAST_BAGGED, 901, 1024)


@pytest.fixture(autouse=True)
def bags(monkeypatch):
    """Take them on every processor."""
    monkeypatch.setattr(products, "HAS_BAGS", True)


def drawn(n, m, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator), torch.rand(n, m, generator=generator)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("m", [1, 77, 901])
@torch.no_grad()
def test_it_is_the_product(n, m):
    state, matrix = drawn(n, m)
    assert products.bags_suit(matrix)
    off = products.row_times(state, matrix).double() - state.double() @ matrix.double()
    assert (off.abs() <= n * EPS / 2 * (state.abs().double() @ matrix.double())).all()


@torch.no_grad()
def test_the_number_of_threads_changes_no_bit():
    state, matrix = drawn(901, 901)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(products.row_times(state, matrix))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "matrix",
    [torch.ones(799, 10), torch.ones(900, 10).double(), torch.ones(900, 20)[:, :10], torch.ones(10, 900).mT],
    ids=["small", "float64", "columns of another", "transposed"],
)
@torch.no_grad()
def test_other_matrices_are_multiplied(matrix):
    assert not products.bags_suit(matrix)
    expected = torch.full((matrix.shape[1],), float(len(matrix)), dtype=matrix.dtype)
    assert torch.equal(products.row_times(matrix.new_ones(len(matrix)), matrix), expected)


@pytest.mark.parametrize("off", [0.0, 1e-3], ids=["rows that sum to one", "rows that do not"])
@torch.no_grad()
def test_a_chain_bounced_alone_takes_them(off, monkeypatch):
    matrix = heads("random", 901, seed=1)[0] * (1 + off)
    operator, (state, _) = DenseOperator.normalising(matrix), drawn(901, 1)
    expected = state.double() @ operator.dense(torch.float64)
    bound = 2 * 901 * EPS * (state.abs().double() @ operator.dense(torch.float64))
    taken = []
    monkeypatch.setattr(
        products, "embedding_bag", lambda *a, **k: taken.append(a) or torch.nn.functional.embedding_bag(*a, **k)
    )
    for bounced in (bouncing(operator, 1, torch.float32)(state.view(1, 1, -1)).view(-1), operator.apply(state)):
        assert ((bounced.double() - expected).abs() <= bound).all()
    assert len(taken) == 2


@torch.no_grad()
def test_blocks_keep_the_promise_that_certificates_are_made_of():
    operator = DenseOperator.normalising(heads("clustered", 901, seed=2)[0])
    state = torch.rand(1, 901, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = state / state.sum()
    off = (operator.apply_in_blocks(state) - operator.apply(state)).abs().sum()
    assert off <= operator.off_in_blocks
    assert operator.off_in_blocks < 20 * EPS


def test_gradients_and_tangents_go_another_way():
    matrix = heads("random", 820, seed=3)[0].requires_grad_()
    state = torch.rand(820, generator=torch.Generator().manual_seed(0)).softmax(-1)
    AttentionChain(matrix).step(state).square().sum().backward()
    assert matrix.grad.abs().sum() > 0
    assert not products.bags_suit(matrix.detach())
    with forward_ad.dual_level(), torch.no_grad():
        assert not products.bags_suit(matrix)
        dual = forward_ad.make_dual(state, torch.ones_like(state))
        tangent = forward_ad.unpack_dual(AttentionChain(matrix.detach()).step(dual)).tangent
    torch.testing.assert_close(tangent, matrix.detach().sum(0), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_another_default_device_is_not_kept():
    products._bags.cache_clear()
    state, matrix = drawn(900, 900)
    with torch.device("meta"):
        inside = products.row_times(state, matrix)
    assert torch.equal(inside, products.row_times(state, matrix))
    torch.testing.assert_close(inside, state @ matrix, rtol=1e-4, atol=1e-3)
