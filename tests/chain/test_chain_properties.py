"""What holds for every chain, whatever its size, batch, sharpness and masking."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_chains.chain import AttentionChain

derandomized = settings(derandomize=True, deadline=None, max_examples=40)


def random_chain(n, batch, sharpness, masked, seed):
    draw = torch.Generator().manual_seed(seed)
    scores = sharpness * torch.randn(*batch, n, n, generator=draw, dtype=torch.float64)
    if masked:
        hidden = torch.rand(scores.shape, generator=draw) < 0.5
        scores = scores.masked_fill(hidden & ~torch.eye(n, dtype=torch.bool), -torch.inf)
    return AttentionChain.from_scores(scores)


chains = st.builds(
    random_chain,
    n=st.integers(1, 9),
    batch=st.sampled_from([(), (1,), (3,), (2, 3)]),
    sharpness=st.sampled_from([0.1, 1.0, 5.0, 30.0]),
    masked=st.booleans(),
    seed=st.integers(0, 10_000),
)
alphas = st.sampled_from([0.1, 0.85, 0.99, 1.0])
derived = st.sampled_from(
    [
        lambda chain: chain,
        lambda chain: chain.teleport(0.85),
        lambda chain: chain.outgoing(),
        lambda chain: chain.teleport(0.99).outgoing(),
        lambda chain: chain.outgoing().outgoing().teleport(0.5),
        lambda chain: chain.lazy(0.3),
        lambda chain: chain.teleport(0.9).lazy() @ chain.outgoing(),
        lambda chain: chain.drop(0) if chain.n > 1 and (chain.matrix()[..., 0] < 1).all() else chain,
        lambda chain: chain.mix("lambda2") if chain.batch_shape else chain,
        lambda chain: chain.teleport(0.9).mix(dim=0) if chain.batch_shape else chain,
    ]
)


def assert_close(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@derandomized
@given(chains, derived)
def test_rows_stay_non_negative_and_sum_to_one(chain, derive):
    matrix = derive(chain).matrix()
    assert (matrix >= 0).all()
    assert_close(matrix.sum(-1), torch.ones_like(matrix.sum(-1)))


@derandomized
@given(chains, derived)
def test_a_bounce_is_a_product_with_the_matrix(chain, derive):
    chain = derive(chain)
    state = torch.randn(*chain.batch_shape, chain.n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_close(chain.step(state), (state.unsqueeze(-2) @ chain.matrix()).squeeze(-2))
    transposed = chain.outgoing()
    assert_close(transposed.step(state), (state.unsqueeze(-2) @ transposed.matrix()).squeeze(-2))


@derandomized
@given(chains, derived, st.integers(0, 4), st.integers(0, 4))
def test_bounces_compose(chain, derive, n, m):
    chain = derive(chain)
    assert_close(chain.bounce(chain.bounce(0, n), m), chain.bounce(0, n + m))


@derandomized
@given(chains, derived, st.integers(0, 5))
def test_bounces_lists_every_bounce_from_the_start_on(chain, derive, n):
    chain = derive(chain)
    walk = chain.bounces("uniform", n)
    assert walk.shape == (n + 1, *chain.batch_shape, chain.n)
    for k in range(n + 1):
        assert_close(walk[k], chain.bounce("uniform", k))


@derandomized
@given(chains, derived)
def test_chaining_is_one_bounce_after_the_other(chain, derive):
    first, then = derive(chain), derive(chain.lazy())
    assert_close((first @ then).bounce(0), then.bounce(first.bounce(0)))


@derandomized
@given(chains, alphas, st.sampled_from([1e-2, 1e-6, 1e-10]), derived)
def test_tokenrank_is_a_fixed_point_within_its_certified_bound(chain, alpha, tol, derive):
    chain = derive(chain).teleport(alpha)
    rank, info = chain.tokenrank(tol=tol, return_info=True)
    assert info.converged.all()
    assert ((chain.step(rank) - rank).abs().sum(-1) <= 2 * info.bound).all()
    if alpha < 1:
        identity = torch.eye(chain.n, dtype=torch.float64)
        uniform = torch.full_like(rank, 1 / chain.n)
        exact = torch.linalg.solve((identity - chain.matrix() + 1 / chain.n).mT, uniform)
        assert ((rank - exact).abs().sum(-1) <= info.bound + 1e-12).all()
        assert (info.bound <= tol).all()


@derandomized
@given(chains, st.sampled_from([0.25, 0.5, 0.9]))
def test_lazy_moves_eigenvalues_and_keeps_tokenrank(chain, stay):
    if chain.n > 1:
        moved = stay + (1 - stay) * torch.linalg.eigvals(chain.matrix())
        assert_close(chain.lazy(stay).lambda2(), moved.abs().sort().values[..., -2], atol=1e-6)
    assert_close(chain.lazy(stay).tokenrank(tol=1e-10), chain.tokenrank(tol=1e-10), atol=1e-8)


@derandomized
@given(chains, st.sampled_from([0.1, 0.85, 0.99]))
def test_teleport_scales_lambda2_by_alpha(chain, alpha):
    assert_close(chain.teleport(alpha).lambda2(), alpha * chain.lambda2())


@derandomized
@given(chains, derived)
def test_lambda2_is_in_the_unit_interval(chain, derive):
    lambda2 = derive(chain).lambda2()
    assert ((lambda2 >= 0) & (lambda2 <= 1)).all()


@derandomized
@given(chains, st.integers(0, 100), derived)
def test_renaming_tokens_renames_the_answers(chain, seed, derive):
    others = torch.randperm(chain.n - 1, generator=torch.Generator().manual_seed(seed)) + 1
    order = torch.cat([torch.zeros(1, dtype=torch.long), others])  # token 0 keeps its name, some chains drop it
    renamed = derive(AttentionChain(chain.matrix()[..., order, :][..., order]))
    chain = derive(chain)
    order = order if chain.n == len(order) else order[1:] - 1
    assert_close(renamed.bounce("uniform", 3), chain.bounce("uniform", 3)[..., order], atol=1e-8)
    assert_close(renamed.tokenrank(tol=1e-10), chain.tokenrank(tol=1e-10)[..., order], atol=1e-7)
    assert_close(renamed.lambda2(), chain.lambda2(), atol=1e-5)


@derandomized
@given(chains, derived)
def test_a_batch_gives_what_a_loop_gives(chain, derive):
    flat = chain.matrix().reshape(-1, chain.n, chain.n)
    batched, singles = AttentionChain(flat), [AttentionChain(matrix) for matrix in flat]
    if derive(batched).batch_shape == batched.batch_shape:
        batched, singles = derive(batched), [derive(single) for single in singles]
    assert_close(batched.bounce(0, 2), torch.stack([single.bounce(0, 2) for single in singles]))
    assert_close(batched.lambda2(), torch.stack([single.lambda2() for single in singles]))
    alone = torch.stack([single.tokenrank(tol=1e-10) for single in singles])
    assert_close(batched.tokenrank(tol=1e-10), alone, atol=2e-10)
