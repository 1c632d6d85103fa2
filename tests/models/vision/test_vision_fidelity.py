"""Logits are the library's own or a float64 reference's; what a capture sees and edits is what the network computes."""

from __future__ import annotations

import itertools
import json
import shutil

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from attention_chains.capture import capture, mask_tokens

NAMES = ("tench", "tabby cat", "tie", "fire engine", "harp")  # the conftest's
FULL = ("vit", "clip", "dinov1_s16", "dinov1_b16", "dinov2")
DINO = ("dinov1_s16", "dinov1_b16", "dinov2")


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether logits agree, measured by the spread of the reference."""
    return bool((a.double() - b.double()).abs().max() <= tolerance * b.double().std())


def tokens64(network, pixels: Tensor) -> list[Tensor]:
    """Tokens after every block and the final norm, written out in float64 from the weights alone."""
    weights = {name: value.double() for name, value in network.state_dict().items()}
    heads = network.blocks[0].attn.num_heads

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(x: Tensor, name: str) -> Tensor:
        q, k, v = linear(x, f"{name}.qkv").unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        return linear(((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2).flatten(2), f"{name}.proj")

    def mlp(x: Tensor, name: str) -> Tensor:
        hidden = linear(x, f"{name}.fc1")
        return linear(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2, f"{name}.fc2")

    kernel = weights["patch_embed.proj.weight"]
    patches = F.unfold(pixels.double(), kernel.shape[-1], stride=kernel.shape[-1]).mT @ kernel.flatten(1).T
    patches = patches + weights["patch_embed.proj.bias"]
    prefix = [weights[name].expand(len(pixels), -1, -1) for name in ("cls_token", "reg_token") if name in weights]
    if network.no_embed_class:
        x = torch.cat([*prefix, patches + weights["pos_embed"]], dim=1)
    else:
        x = torch.cat([*prefix, patches], dim=1) + weights["pos_embed"]
    layers = []
    for index in range(len(network.blocks)):
        block = f"blocks.{index}"
        x = x + attend(norm(x, f"{block}.norm1"), f"{block}.attn") * weights.get(f"{block}.ls1.gamma", 1)
        x = x + mlp(norm(x, f"{block}.norm2"), f"{block}.mlp") * weights.get(f"{block}.ls2.gamma", 1)
        layers.append(norm(x, "norm"))
    return layers


def features64(name: str, layers: list[Tensor], registers: int) -> Tensor:
    """What the published heads read (protocol 4.1), written out."""
    if name == "dinov1_s16":
        return torch.cat([x[:, 0] for x in layers[-4:]], dim=1)
    mean = layers[-1][:, 1 + registers :].mean(1)
    if name == "dinov2":
        return torch.cat([*(x[:, 0] for x in layers[-4:]), mean], dim=1)
    interleaved = torch.empty(len(mean), 2 * mean.shape[1], dtype=mean.dtype)
    interleaved[:, 0::2], interleaved[:, 1::2] = layers[-1][:, 0], mean
    return interleaved


def hidden_tokens(model, images: int, share: float) -> dict[str, Tensor]:
    """Random patches to hide in the first half of the blocks, others in each image and head: (images, H, T) boolean."""
    generator = torch.Generator().manual_seed(1)
    first, patches = 1 + model.registers, model.grid[0] * model.grid[1]
    heads = _heads(model)
    hidden = {}
    for layer in model.blocks[: len(model.blocks) // 2]:
        hidden[layer] = torch.rand(images, heads, first + patches, generator=generator) < share
        hidden[layer][..., :first] = False
    return hidden


def _heads(model) -> int:
    return model.network.get_submodule(model.blocks[0]).num_heads


def explicit_logits(name: str, model, network, pixels: Tensor, hidden: dict[str, Tensor]) -> Tensor:
    """The library's own blocks, one by one, with an explicit attn_mask; then the classifier."""
    if name == "clip":
        return _explicit_clip(network, pixels, [hidden.get(layer) for layer in model.blocks])
    x = network.norm_pre(network._pos_embed(network.patch_embed(pixels)))
    layers = []
    for layer, block in zip(model.blocks, network.blocks, strict=True):
        x = block(x, attn_mask=~hidden[layer][:, :, None] if layer in hidden else None)
        layers.append(network.norm(x))
    if name == "vit":
        return network.head(layers[-1][:, 0])
    return _head_of(model)(features64(name, layers, model.registers))


def _explicit_clip(network, pixels: Tensor, hidden: list[Tensor | None]) -> Tensor:
    visual = network.visual
    x = visual._embeds(pixels)
    for mask, block in zip(hidden, visual.transformer.resblocks, strict=True):
        added = None
        if mask is not None:
            added = torch.zeros(mask.shape).masked_fill(mask, -torch.inf)[:, :, None].expand(-1, -1, x.shape[1], -1)
        x = block(x, attn_mask=None if added is None else added.flatten(0, 1))
    images = F.normalize(visual._pool(x)[0] @ visual.proj, dim=-1)
    return network.logit_scale.exp() * images @ _zero_shot(network)


def _zero_shot(network) -> Tensor:
    tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
    return open_clip.build_zero_shot_classifier(network, tokenizer, NAMES, ["A photo of a {}."])


def _head_of(model):
    head = model.classify.args[-1]
    return lambda features: features.float() @ head.weight.T + head.bias


@pytest.fixture(scope="module")
def answers(loaded, photographs):
    """Model, library's network, pixels and logits of a full-size model, computed once."""
    made = {}

    def get(name: str):
        if name not in made:
            model, network = loaded(name)
            pixels = model.pixels(photographs[:1])
            made[name] = model, network, pixels, model.logits(pixels)
        return made[name]

    return get


def test_a_supervised_vits_logits_are_timms_own(answers):
    _, network, pixels, logits = answers("vit")
    assert logits.shape == (1, 1000) and logits.dtype == torch.float32
    assert close(logits, network(pixels), 1e-5)


def test_clips_logits_are_open_clips_zero_shot_classifiers(answers):
    model, network, pixels, logits = answers("clip")
    expected = network.logit_scale.exp() * network.encode_image(pixels, normalize=True) @ _zero_shot(network)
    assert model.classes == len(NAMES) and close(logits, expected)


@pytest.mark.parametrize(("name", "activation"), [("clip", "GELU"), ("clip.openai", "QuickGELU")])
def test_openais_clips_have_quickgelu_whatever_their_config_says(tiny, load, tmp_path, name, activation):
    folder = shutil.copytree(tiny("clip").folder, tmp_path / name)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = False
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    network = load("clip", source=str(folder), image_size=32, classes=NAMES).network
    assert type(network.visual.transformer.resblocks[0].mlp.gelu).__name__ == activation


@pytest.mark.parametrize("name", DINO)
def test_the_dino_heads_read_what_the_published_ones_read(answers, name):
    model, network, pixels, logits = answers(name)
    features = features64(name, tokens64(network, pixels), model.registers)
    head = model.classify.args[-1]
    assert model.classes == 1000
    assert close(logits, features @ head.weight.double().T + head.bias.double())


@pytest.mark.parametrize("name", FULL)
def test_a_capture_sees_every_block_by_its_name_and_its_softmax_is_the_networks(answers, name):
    model, _, pixels, logits = answers(name)
    tokens = 1 + model.registers + model.grid[0] * model.grid[1]

    def error(call):
        assert call.q.shape[-2] == call.k.shape[-2] == tokens
        sdpa = F.scaled_dot_product_attention(call.q, call.k, call.v, attn_mask=call.mask, scale=call.scale)
        return (call.matrix() @ call.v - sdpa).abs().max()

    with capture(model.network, reduce=error) as tape:
        captured = model.logits(pixels)
    assert list(tape) == model.blocks
    assert max(tape[layer] for layer in tape) <= 1e-5
    assert close(captured, logits)  # not the same bits: unwatched, CLIP's attention takes torch's fast path


def check_masking(name: str, model, network, pixels: Tensor) -> None:
    hidden = hidden_tokens(model, len(pixels), share=0.6)
    with capture(model.network, layers=list(hidden), edit=lambda call: mask_tokens(hidden[call.layer])(call)):
        masked = model.logits(pixels)
    assert close(masked, explicit_logits(name, model, network, pixels, hidden))
    assert not close(masked, model.logits(pixels), 1e-2)


@pytest.mark.parametrize("name", FULL)
def test_columns_hidden_through_a_capture_are_an_explicit_attention_mask(answers, name):
    model, network, pixels, _ = answers(name)
    check_masking(name, model, network, pixels)


@pytest.mark.parametrize("name", ["vit", "clip", "dinov1_s16", "dinov2"])
def test_each_image_of_a_batch_may_hide_other_columns(tiny, load, photographs, head_file, name):
    family = name.split("_")[0]
    made = tiny(family)
    model = load(family, source=str(made.folder), image_size=32, **_classifier(family, head_file))
    check_masking(name, model, made.network, model.pixels(photographs))


@pytest.mark.parametrize("family", ["vit", "clip", "dinov1", "dinov2"])
def test_the_forward_pass_alone_runs_the_same_attention_and_needs_no_classifier(
    tiny, load, photographs, head_file, family
):
    source, records = str(tiny(family).folder), []
    for settings, run in (({}, "forward"), (_classifier(family, head_file), "logits")):
        model = load(family, source=source, image_size=32, **{"classes": None, **settings})
        with capture(model.network, layers=model.blocks) as tape:
            getattr(model, run)(model.pixels(photographs))
        records.append(tape)
    alone, classified = records
    assert len(alone) == 4 and all(torch.equal(alone[layer].q, classified[layer].q) for layer in alone)


@pytest.mark.parametrize("family", ["vit", "clip", "dinov1", "dinov2"])
def test_an_images_logits_do_not_depend_on_its_batch(tiny, load, photographs, head_file, family):
    model = load(family, source=str(tiny(family).folder), image_size=32, **_classifier(family, head_file))
    single = torch.cat([model.logits(model.pixels([image])) for image in photographs])
    assert close(model.logits(model.pixels(photographs)), single)


@pytest.mark.parametrize("family", ["vit", "clip", "dinov1", "dinov2"])
def test_a_models_parameters_are_fixed_and_its_logits_are_fp32_in_any_precision(
    tiny, load, photographs, head_file, family
):
    source = str(tiny(family).folder)
    exact = load(family, source=source, image_size=32, **_classifier(family, head_file))
    half = load(family, source=source, image_size=32, dtype=torch.bfloat16, **_classifier(family, head_file))
    assert {parameter.dtype for parameter in half.network.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in half.network.parameters())
    logits = half.logits(half.pixels(photographs))
    assert logits.dtype == torch.float32
    assert close(logits, exact.logits(exact.pixels(photographs)), 0.5)


def _classifier(family: str, head_file) -> dict:
    widths = {"dinov1": 4 * 32, "dinov2": 5 * 32}
    if family in widths:
        return {"head": str(head_file(family, widths[family], 10))}
    return {"classes": NAMES} if family == "clip" else {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("family", ["vit", "clip", "dinov1", "dinov2"])
def test_a_gpu_gives_the_cpus_logits(tiny, load, photographs, head_file, family):
    settings = {"source": str(tiny(family).folder), "image_size": 32, **_classifier(family, head_file)}
    host, device = load(family, **settings), load(family, **settings, device=torch.device("cuda"))
    logits = device.logits(device.pixels(photographs))
    assert logits.is_cuda and close(logits.cpu(), host.logits(host.pixels(photographs)), 1e-2)


VARIANTS = [
    ("vit", "vit_large_patch16_224.augreg_in21k_ft_in1k", 224, 1000),
    ("dinov1", "vit_base_patch16_224.dino", 224, 1536),
    ("dinov1", "vit_base_patch8_224.dino", 224, 1536),
    ("dinov1", "vit_small_patch8_224.dino", 224, 1536),
    ("dinov2", "vit_base_patch14_reg4_dinov2.lvd142m", 224, 3840),
    ("dinov2", "vit_large_patch14_reg4_dinov2.lvd142m", 224, 5120),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name", "size", "width"), VARIANTS)
def test_every_other_variant_of_timms_is_right_at_full_size(
    timm_folder, head_file, load, photographs, family, name, size, width
):
    made = timm_folder(name)
    head = {} if family == "vit" else {"head": str(head_file(family, width))}
    model = load(family, source=str(made.folder), image_size=size, **head)
    pixels = model.pixels(photographs[:1])
    if family == "vit":
        assert close(model.logits(pixels), made.network(pixels), 1e-5)
        return
    kind = {"dinov2": "dinov2", "dinov1": "dinov1_s16" if made.network.embed_dim == 384 else "dinov1_b16"}[family]
    layers = tokens64(model.network, pixels)  # at the grid of 224 pixels, which for DINOv2 is not the native one
    assert close(model.logits(pixels), _head_of(model)(features64(kind, layers, model.registers)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [("ViT-B-16-quickgelu", 224), ("ViT-L-14-quickgelu", 224), ("ViT-L-14-336-quickgelu", 336)]
)
def test_every_other_clip_is_right_at_full_size(clip_folder, load, photographs, name, size):
    made = clip_folder(name)
    model = load("clip", source=str(made.folder), image_size=size, classes=NAMES)
    pixels = model.pixels(photographs[:1])
    network = made.network
    expected = network.logit_scale.exp() * network.encode_image(pixels, normalize=True) @ _zero_shot(network)
    assert close(model.logits(pixels), expected)


@pytest.mark.slow
def test_the_default_classes_of_clip_are_the_thousand_names_of_open_clip(loaded, load, clip_folder):
    made = clip_folder("ViT-B-32-quickgelu", image_size=32, patch_size=8, width=64, layers=4, head_width=32)
    model = load("clip", source=str(made.folder), image_size=32)
    texts = model.classify.args[-1]  # (classes, D)
    tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
    for index, name in itertools.islice(enumerate(open_clip.IMAGENET_CLASSNAMES), 0, None, 97):
        expected = made.network.encode_text(tokenizer([f"A photo of a {name}."]), normalize=True)[0]
        assert torch.allclose(texts[index], expected, atol=1e-5)
    assert model.classes == 1000
