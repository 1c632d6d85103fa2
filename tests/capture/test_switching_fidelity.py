"""Promise: a model on another attention implementation is switched for the while, with the same answer, and back."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from attention_chains.capture import CaptureError, capture


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_timm_unfused(small_vit):
    model, images = small_vit
    for block in model.blocks:
        block.attn.fused_attn = False
    plain = model(images)
    with capture(model, "blocks.1.attn") as tape:
        assert [block.attn.fused_attn for block in model.blocks] == [False, True, False]
        close(model(images), plain)
    assert tape.layers == ("blocks.1.attn",)
    assert not any(block.attn.fused_attn for block in model.blocks)
    assert torch.equal(model(images), plain)


@pytest.fixture
def transformers_vit():
    from transformers import ViTConfig, ViTModel

    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(image_size=16, patch_size=8, attn_implementation="eager", **shape)
    return ViTModel(config).eval()


@torch.no_grad()
def test_transformers_eager(transformers_vit):
    wrapped, images = nn.ModuleDict({"backbone": transformers_vit}), torch.randn(1, 3, 16, 16)
    plain = transformers_vit(images).last_hidden_state
    with capture(wrapped, "*.attention*") as tape:
        assert transformers_vit.config._attn_implementation == "sdpa"
        close(transformers_vit(images).last_hidden_state, plain)
    assert len(tape) == 2
    assert transformers_vit.config._attn_implementation == "eager"
    assert torch.equal(transformers_vit(images).last_hidden_state, plain)


@torch.no_grad()
def test_both_towers_of_transformers_clip():
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 20, "max_position_embeddings": 8, "eos_token_id": 19},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=8,
        attn_implementation="eager",
    )
    model = CLIPModel(config).eval()
    inputs = {"input_ids": torch.tensor([[1, 2, 19]]), "pixel_values": torch.randn(1, 3, 16, 16)}
    plain = model(**inputs).logits_per_image
    with capture(model, "*.self_attn") as tape:
        close(model(**inputs).logits_per_image, plain)
    assert len(tape) == 2
    assert {model.config._attn_implementation, model.text_model.config._attn_implementation} == {"eager"}


def test_a_transformers_model_that_cannot_be_switched():
    from transformers import PretrainedConfig, PreTrainedModel

    class WrittenOut(PreTrainedModel):
        config_class = PretrainedConfig
        _supports_sdpa = False

    model = WrittenOut(PretrainedConfig(attn_implementation="eager"))
    with (
        pytest.raises(CaptureError, match=r"WrittenOut at '' cannot be switched .* attn_implementation='sdpa'"),
        capture(model),
    ):
        pass
    assert model.config._attn_implementation == "eager"


@pytest.fixture
def unet():
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()
    inputs = {"sample": torch.randn(1, 4, 8, 8), "timestep": 5, "encoder_hidden_states": torch.randn(1, 3, 8)}
    return model, lambda: model(**inputs).sample


@torch.no_grad()
@pytest.mark.parametrize("switch_off", ["set_default_attn_processor", "set_attention_slice"])
def test_diffusers_processors_without_sdpa(unet, switch_off):
    model, run = unet
    model.set_attention_slice("auto") if switch_off == "set_attention_slice" else model.set_default_attn_processor()
    plain, processors = run(), dict(model.attn_processors)
    with capture(model, "*.attn1") as tape:
        close(run(), plain)
    assert len(tape) == len([name for name in processors if "attn1" in name])
    assert all(model.attn_processors[name] is processor for name, processor in processors.items())
    assert torch.equal(run(), plain)


def test_diffusers_attention_without_scaled_logits_is_refused(unet):
    from diffusers.models.attention_processor import Attention, AttnProcessor

    model = nn.ModuleDict({"attn": Attention(8, heads=2, dim_head=4, scale_qk=False)})
    assert isinstance(model["attn"].processor, AttnProcessor)
    with (
        pytest.raises(CaptureError, match=r"layer 'attn' does not scale its logits .* leave it out of `layers`"),
        capture(model),
    ):
        pass


@contextmanager
def own_backend(model):
    from diffusers.models.attention_dispatch import AttentionBackendName

    processors = list(model.attn_processors.values())
    for processor in processors:
        processor._attention_backend = AttentionBackendName.FLEX
    yield AttentionBackendName.FLEX
    assert all(processor._attention_backend is AttentionBackendName.FLEX for processor in processors)


@contextmanager
def backend_of_all_diffusers(model):
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    before = _AttentionBackendRegistry._active_backend
    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.FLEX)
    yield
    assert _AttentionBackendRegistry._active_backend is AttentionBackendName.FLEX
    assert all(processor._attention_backend is None for processor in model.attn_processors.values())
    _AttentionBackendRegistry.set_active_backend(before)


@torch.no_grad()
@pytest.mark.parametrize("elsewhere", [own_backend, backend_of_all_diffusers])
def test_diffusers_backends_that_cannot_be_seen(flux, elsewhere):
    model, run, inputs = flux
    plain = run(inputs)
    with elsewhere(model):
        with capture(model, "*attn") as tape:
            assert torch.equal(run(inputs), plain)
        assert len(tape) == 4


@torch.no_grad()
@pytest.mark.parametrize("wrap", ["model", "blocks"])
def test_compiled_models_run_eagerly_inside_and_keep_their_paths(small_vit, wrap):
    model, images = small_vit
    plain, compilations = model(images), []

    def backend(graph, _):
        compilations.append(graph)
        return graph.forward

    if wrap == "blocks":
        model.blocks[0] = torch.compile(model.blocks[0], backend=backend)
    compiled = torch.compile(model, backend=backend) if wrap == "model" else model
    with capture(compiled, "blocks.*.attn") as tape:
        assert torch.equal(compiled(images), plain)
    assert not compilations
    assert tape.layers == ("blocks.0.attn", "blocks.1.attn", "blocks.2.attn")
    compiled(images)
    assert compilations
