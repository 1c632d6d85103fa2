"""Any float type in; float32 or float64 work and results, on the input's device."""

import pytest
import torch

from attention_chains.chain import AttentionChain, products

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


def attention(dtype, n=64, device="cpu"):
    scores = 2 * torch.randn(2, n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.softmax(scores, -1).to(dtype=dtype, device=device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_and_single_give_float32_rows_that_sum_to_one(dtype):
    chain = AttentionChain(attention(dtype))
    assert chain.dtype == torch.float32
    torch.testing.assert_close(chain.matrix().sum(-1), torch.ones(2, 64), rtol=0, atol=1e-6)


def test_double_stays_double():
    chain = AttentionChain(attention(torch.float64))
    for result in (
        chain.matrix(),
        chain.bounce(0),
        chain.tokenrank(),
        chain.lambda2(),
        chain.mix().teleport().bounce(0),
    ):
        assert result.dtype == torch.float64


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 3e-4), (torch.bfloat16, 3e-3), (torch.float32, 1e-6)])
def test_answers_are_as_good_as_the_input_type_allows(dtype, error):
    exact, chain = AttentionChain(attention(torch.float64)), AttentionChain(attention(dtype))
    for ask in (
        lambda chain: chain.teleport().tokenrank(),
        lambda chain: chain.tokenrank(),
        lambda chain: chain.outgoing().bounce(3, 2),
    ):
        assert (ask(chain) - ask(exact)).abs().sum(-1).max() < error
    torch.testing.assert_close(chain.lambda2().double(), exact.lambda2(), rtol=10 * error, atol=0)


def test_normalising_bf16_rows_first_is_what_makes_tokenrank_accurate():
    raw = attention(torch.bfloat16, n=197)
    exact = AttentionChain(attention(torch.float64, n=197)).teleport().tokenrank()
    drifted = torch.full((2, 1, 197), 1 / 197)
    for _ in range(200):
        drifted = 0.99 * drifted @ raw.float() + 0.01 / 197
    ours = (AttentionChain(raw).teleport().tokenrank() - exact).abs().sum(-1)
    assert (ours < 0.5 * (drifted.squeeze(1) - exact).abs().sum(-1)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_any_type_are_softmaxed_in_at_least_float32(dtype):
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torch.softmax(scores.double(), -1)
    chain = AttentionChain.from_scores(scores)
    torch.testing.assert_close(chain.matrix().double(), expected, rtol=0, atol=1e-6)
    assert chain.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_starts_of_any_float_type_come_out_in_the_chains_type():
    chain = AttentionChain(attention(torch.float32))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        start = torch.full((64,), 1 / 64, dtype=dtype)
        assert chain.bounce(start, 2).dtype == torch.float32
        torch.testing.assert_close(chain.bounce(start, 2), chain.bounce("uniform", 2))


def test_autocast_does_not_lower_the_precision():
    chain = AttentionChain(attention(torch.float32))
    ask = {
        "bounce": lambda: chain.outgoing().bounce(0, 3),
        "mix": lambda: chain.mix("lambda2").matrix(),
        "chained": lambda: (chain @ chain).matrix(),
        "scores": lambda: AttentionChain.from_scores(chain.matrix().log()).matrix(),
    }
    plain = {name: answer() for name, answer in ask.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name, answer in ask.items():
            assert torch.equal(answer(), plain[name]), name


@pytest.mark.parametrize("device", DEVICES)
def test_results_are_on_the_inputs_device(device):
    chain = AttentionChain(attention(torch.float32, device=device))
    rank, info = chain.teleport().tokenrank(return_info=True)
    results = [rank, info.bound, chain.tokenrank(), chain.lambda2(), chain.bounce(0), chain.bounce("uniform")]
    results += [chain.outgoing().bounce(torch.tensor([1, 2])), chain.drop([0]).matrix(), chain.mix("lambda2").matrix()]
    assert {result.device.type for result in results} == {device}


def test_the_input_is_left_as_it_was():
    matrix = attention(torch.float32)
    before = matrix.clone()
    chain = AttentionChain(matrix).teleport()
    chain.outgoing().bounce(0, 2), chain.tokenrank(), chain.lambda2(), chain.drop(0), chain.mix()
    assert torch.equal(matrix, before)


def test_implicit_chains_store_no_second_matrix(heads):
    storage = heads._operator.matrix.data_ptr()
    implicit = heads.teleport(0.9).outgoing().lazy()
    assert implicit._operator.base.base.base.matrix.data_ptr() == storage


@pytest.mark.parametrize("states", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_larger_than_the_caches_bounces_few_states_alike(states, dtype, monkeypatch):
    """Read in pieces, two or three states at once."""
    generator = torch.Generator().manual_seed(0)
    chain = AttentionChain.from_scores(torch.randn(300, 300, generator=generator, dtype=dtype))
    start = torch.rand(states, 300, generator=generator, dtype=dtype).softmax(-1)
    expected = start.double() @ chain.matrix().double()
    monkeypatch.setattr(products, "BEYOND", 0)
    monkeypatch.setitem(products.CHUNK, "cpu", 64 * 300)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(chain.step(start).double(), expected, atol=0, rtol=tolerance)
