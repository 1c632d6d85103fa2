"""On a GPU that is pretended (tests/fixtures/pretend_gpu.py): the same answers, on its device, and few waits for it."""

import pytest
import torch
from heads import heads
from pretend_gpu import OnGPU, pretended, waits

from attention_chains.chain import AttentionChain, RunningMix, operators

Q, K = slice(16), slice(16, 32)  # channels that serve as queries and keys


def head_mean(matrices, weights):
    mean = RunningMix(weights)
    for _ in range(2):
        mean.add(AttentionChain(matrices))
    return mean.chain()


def fused(matrices):
    return AttentionChain.from_qk(30 * matrices[..., Q], 30 * matrices[..., K], storage="fused")


ASKED = {
    "matrix": lambda a: AttentionChain(a).matrix(),
    "bounce of an index": lambda a: AttentionChain(a).bounce(3, 2),
    "bounce of many indices": lambda a: AttentionChain(a).bounce(torch.tensor([1, 2, 3]), 2),
    "bounces": lambda a: AttentionChain(a).bounces("uniform", 4),
    "outgoing bounce": lambda a: AttentionChain(a).outgoing().bounce(2, 3),
    "teleport to a token": lambda a: AttentionChain(a).teleport(0.9, torch.eye(100)[5].to(a.device)).bounce(2, 3),
    "drop": lambda a: AttentionChain(a).drop([0, 6]).matrix(),
    "tokenrank": lambda a: AttentionChain(a).tokenrank(),
    "tokenrank, teleported": lambda a: AttentionChain(a).teleport(0.99).tokenrank(),
    "tokenrank by power": lambda a: AttentionChain(a).teleport(0.9).tokenrank(method="power"),
    "tokenrank, outgoing": lambda a: AttentionChain(a).teleport(0.99).outgoing().tokenrank(),
    "tokenrank, chained": lambda a: (AttentionChain(a) @ AttentionChain(a)).tokenrank(),
    "tokenrank of a mean": lambda a: AttentionChain(a).mix("lambda2").lazy().tokenrank(),
    "tokenrank of a running mean": lambda a: head_mean(a, "lambda2").tokenrank(),
    "lambda2": lambda a: AttentionChain(a).lambda2(),
    "certified lambda2": lambda a: AttentionChain(a).lambda2(return_info=True)[0],
    "lambda2 of a permutation": lambda a: AttentionChain(torch.eye(90, device=a.device).roll(1, 0)).lambda2(),
    "spectrum": lambda a: AttentionChain(a).spectrum(4).abs(),
    "mixing time": lambda a: AttentionChain(a).teleport(0.9).mixing_time(0.1),
    "bounces until stationary": lambda a: AttentionChain(a).teleport(0.9).first_bounces_until(0.01),
    "metastable sets": lambda a: AttentionChain(a[0]).metastable_sets(3),
    "metastable sets by the gap": lambda a: AttentionChain(a[0]).metastable_sets("gap"),
    "rectangular": lambda a: AttentionChain.from_cross(9 * a[..., :50]).tokenrank(),
    "matrix-free bounce": lambda a: fused(a).outgoing().bounce(2, 3),
    "matrix-free tokenrank": lambda a: fused(a).teleport(0.9).tokenrank(),
    "matrix-free lambda2": lambda a: fused(a).lambda2(),
}


@pytest.fixture(scope="module")
def matrices():
    return heads("clustered", 100, seed=0, count=3).float()


def on_gpu(matrices):
    return matrices.to(torch.device("cuda:0"))


@pytest.mark.parametrize("asked", ASKED)
def test_every_question_is_answered_on_the_device_of_the_attention(asked, matrices):
    expected = ASKED[asked](matrices)
    with pretended() as device:
        found = ASKED[asked](on_gpu(matrices))
        assert found.device == device
        found = found.cpu()
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def waited(ask):
    with pretended():
        waits.clear()
        ask()
        return len(waits)


def test_bouncing_longer_waits_no_oftener(matrices):
    with pretended():
        chain = AttentionChain(on_gpu(matrices)).teleport(0.99).outgoing()
    assert waited(lambda: chain.bounce(2, 3)) == waited(lambda: chain.bounce(2, 200))


def test_the_power_method_looks_once_in_many_steps(matrices):
    with pretended():
        chain = AttentionChain(on_gpu(matrices)).teleport(0.9)
        steps = chain.tokenrank(method="power", return_info=True)[1].iterations.amax().item()
    assert steps >= 40
    assert waited(lambda: chain.tokenrank(method="power")) <= 5 + steps / 10


def test_a_krylov_space_is_looked_at_a_few_times_only(matrices):
    with pretended():
        chain = AttentionChain(on_gpu(matrices))
        slow = chain.teleport(0.999)
        steps = slow.tokenrank(return_info=True)[1].iterations.amax().item()
        passes = chain.lambda2(return_info=True)[1].passes.amax().item()
    assert steps >= 12
    assert waited(slow.tokenrank) <= 12 + steps / 3
    assert passes >= 20
    assert waited(chain.lambda2) <= passes / 4


def test_the_pretended_gpu_refuses_what_a_gpu_refuses(matrices):
    with pretended():
        there = on_gpu(matrices)
        assert isinstance(there, OnGPU)
        with pytest.raises(RuntimeError, match="expected all tensors on cuda:0"):
            there + matrices
        with pytest.raises(TypeError, match="copy it to the host first"):
            there.numpy()
        waits.clear()
        assert bool((there >= 0).all())
        there[there > 0.5].sum().item()
        there.cpu()
        assert len(waits) == 4
    assert torch.equal(there.host, matrices)


def test_all_eigenvalues_of_small_chains_take_one_copy_to_the_host():
    with pretended():
        chain = AttentionChain(on_gpu(heads("local", 40, seed=1, count=12).float()))
    assert waited(chain.lambda2) == 1


@pytest.mark.parametrize("ask", ["tokenrank", "lambda2"])
def test_tf32_is_off_while_a_result_is_certified_and_on_again_afterwards(ask, matrices, monkeypatch):
    """On a GPU TF32 keeps 10 bits of a factor: certificates would be false."""
    matmul, seen = torch.backends.cuda.matmul, []
    original = operators.DenseOperator.apply

    def watched(operator, state):
        seen.append(matmul.fp32_precision)
        return original(operator, state)

    before = matmul.fp32_precision
    with pretended():
        chain = AttentionChain(on_gpu(matrices)).teleport(0.99)
        monkeypatch.setattr(operators.DenseOperator, "apply", watched)
        matmul.fp32_precision = "tf32"
        try:
            getattr(chain, ask)()
            after = matmul.fp32_precision
        finally:
            matmul.fp32_precision = before
    assert set(seen) == {"ieee"}
    assert after == "tf32"
