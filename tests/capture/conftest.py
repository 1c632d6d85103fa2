"""Models to capture, and a witness of what their attention calls really were."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from torch import nn
from torch.overrides import TorchFunctionMode

SDPA = F.scaled_dot_product_attention


class Witness(TorchFunctionMode):
    """Keeps the output of every scaled_dot_product_attention call, independently of the capture."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func is SDPA:
            self.outputs.append(output)
        return output


class Attend(nn.Module):
    """A layer that hands its inputs to scaled_dot_product_attention."""

    def forward(self, q, k, v, **kwargs):
        return F.scaled_dot_product_attention(q, k, v, **kwargs)


class Stack(nn.Module):
    """A transformer of bare attention layers, `blocks.<i>.attn`."""

    class Attention(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads, self.qkv = heads, nn.Linear(width, 3 * width)

        def forward(self, x):
            q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def __init__(self, depth=3, width=8, heads=2):
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"attn": self.Attention(width, heads)}) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = x + block["attn"](x)
        return x


def flux_inputs(batch=2, image=9, text=4, joint=16, pooled=8, channels=6, dtype=torch.float32):
    return {
        "hidden_states": torch.randn(batch, image, channels, dtype=dtype),
        "encoder_hidden_states": torch.randn(batch, text, joint, dtype=dtype),
        "pooled_projections": torch.randn(batch, pooled, dtype=dtype),
        "timestep": torch.full((batch,), 0.5, dtype=dtype),
        "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(image / 3)),
        "txt_ids": torch.zeros(text, 3),
    }


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def witness():
    return Witness()


@pytest.fixture
def attend():
    return Attend()


@pytest.fixture
def stack():
    return Stack


@pytest.fixture
def flux():
    """A tiny FLUX transformer: (model, forward, inputs) with 4 text and 9 image tokens, 2 heads of 8."""
    model = FluxTransformer2DModel(
        in_channels=6,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    ).eval()
    inputs = flux_inputs()
    return model, partial(_run_flux, model), inputs


@pytest.fixture
def schnell():
    """One dual and one single block with FLUX.1-schnell's 24 heads of 128, in bf16."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=32,
            pooled_projection_dim=8,
        )
    model = model.bfloat16().to_empty(device="cpu").eval()
    noise = torch.randn(1 << 20).mul(0.02).bfloat16()  # drawing half a billion weights would take a minute
    for parameter in model.parameters():
        for chunk in parameter.data.view(-1).split(noise.numel()):
            chunk.copy_(noise[: chunk.numel()])
    inputs = flux_inputs(batch=1, image=24, text=8, joint=32, channels=16, dtype=torch.bfloat16)
    return model, partial(_run_flux, model), inputs


def _run_flux(model, inputs):
    return model(**inputs).sample


@pytest.fixture(scope="session")
def vit_b():
    """A full-size ViT-B/16 at 224 px: (model, images)."""
    import timm

    torch.manual_seed(0)
    return timm.create_model("vit_base_patch16_224").eval(), torch.randn(2, 3, 224, 224)


@pytest.fixture
def small_vit():
    """A three-block timm ViT on 32 px: (model, images)."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5).eval()
    return model, torch.randn(2, 3, 32, 32)
