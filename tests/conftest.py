"""What holds for every test: the same examples each time, one thread, no network, no screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel

# Set before torch, matplotlib or a hub client is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true")
os.environ.pop("HYDRA_FULL_ERROR", None)

settings.register_profile("house", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("house")


ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 16,
    "axes_dims_rope": (4, 6, 6),
}


@pytest.fixture(scope="session")
def scripts() -> Path:
    """The folder of the training scripts, from now on importable: `import minis.flux`."""
    if str(ROOT / "scripts") not in sys.path:
        sys.path.insert(0, str(ROOT / "scripts"))
    return ROOT / "scripts"


@pytest.fixture(scope="session")
def new_flux(scripts: Path) -> Callable[..., FluxPipeline]:
    """Make a FLUX pipeline with random weights and the miniature's tokenizers.

    `schedule` goes to the scheduler, `vae_channels` says how often the autoencoder halves the image (once less than
    their number), `wide` makes the transformer in bf16 without drawing each weight, other keywords go to it.
    """

    def make(
        schedule: dict | None = None, vae_channels: tuple[int, ...] = (8, 8), wide: bool = False, **sizes: object
    ) -> FluxPipeline:
        import torch
        from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

        with torch.random.fork_rng():
            torch.manual_seed(0)
            transformer = _wide(sizes) if wide else FluxTransformer2DModel(**{**TINY, **sizes})
            return FluxPipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(**(schedule or {"shift": 1.0})),
                vae=_autoencoder(vae_channels, transformer.config.in_channels // 4),
                transformer=transformer,
                **_text_encoders(transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim),
            )

    return make


@pytest.fixture(scope="session")
def tiny_flux(new_flux: Callable[..., FluxPipeline], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a FLUX pipeline with random weights: 2 dual and 2 single blocks, 2 heads, 4 x 4 px an image token."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    new_flux().save_pretrained(folder)
    return folder


def _wide(sizes: dict) -> FluxTransformer2DModel:
    import torch
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(**sizes)
    model = model.bfloat16().to_empty(device="cpu")
    noise = torch.randn(1 << 20).mul(0.02).bfloat16()  # drawing half a billion weights would take a minute
    for parameter in model.parameters():
        for chunk in parameter.data.view(-1).split(noise.numel()):
            chunk.copy_(noise[: chunk.numel()])
    return model


def _autoencoder(channels: tuple[int, ...], latent_channels: int) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    )


def _text_encoders(text_width: int, pooled_width: int) -> dict:
    from minis.tokenizers import clip_tokenizer, t5_tokenizer
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    t5, clip = t5_tokenizer(512), clip_tokenizer(24)
    narrow_t5 = {"num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16, "dropout_rate": 0.0}
    narrow_clip = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 24}
    return {
        "tokenizer": clip,
        "tokenizer_2": t5,
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(vocab_size=len(clip), hidden_size=pooled_width, **narrow_clip, **ends)
        ),
        "text_encoder_2": T5EncoderModel(T5Config(vocab_size=len(t5), d_model=text_width, **narrow_t5)),
    }
