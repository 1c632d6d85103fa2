"""The Stable Diffusion miniature: a complete `StableDiffusionPipeline` folder trained on digit scenes.

The autoencoder is the FLUX miniature's (64 px -> 32 x 32 x 4); UNet and CLIP text encoder are trained together to
predict the noise. The UNet has Stable Diffusion's class and four levels, from 32 x 32 to 4 x 4, with attention at the
first three and in the middle: `up_blocks.2.attentions.2`, from which SAG takes its mask, has half the latent's
resolution, as in SD1.5.

The caption is dropped often, since Table 2 samples from the empty one: the unconditional model must generate too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from attention_chains.data.digit_scenes import DigitScenes
from attention_chains.models.assets import local_folder
from minis.attention import ExplicitAttention
from minis.flux import CLIP_LENGTH, encode_batch, new_clip, save_whole, scene_pool
from minis.loop import Recipe, step_generator, train
from minis.tokenizers import clip_tokenizer

BATCH = 32
CAPTION_SHARES = (0.35, 0.2, 0.1, 0.35)  # full, class word alone, colour word alone, empty
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}  # Stable Diffusion's


@dataclass(frozen=True)
class Sd15Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    scenes: int = 16_000  # mixed scenes, and as many portraits
    mixed_precision: bool = True  # convolutions and matrix products in bf16
    unet: Recipe = Recipe(steps=1000, learning_rate=1e-3, horizon=2000, muon=True)
    polish: Recipe = Recipe(steps=1800, learning_rate=1.5e-3, muon=True)
    finish: Recipe = Recipe(steps=5400, learning_rate=1.5e-3, muon="kernels")
    portrait_share: float = 0.75  # of the scenes of these two; before, half
    noisy_from: int = 400  # half of their noise levels are at or above this training step
    largest_weight: float = 25.0  # of a noise level in these two
    compiled: bool = True  # three minutes once, then a step takes two thirds of its time


def build(folder: Path, output: Path, recipe: Sd15Recipe | None = None, device: str = "cpu") -> None:
    """Train (or resume) in `folder` and write the finished pipeline to `output`."""
    recipe = recipe or Sd15Recipe()
    folder.mkdir(parents=True, exist_ok=True)
    vae = flux_autoencoder()
    pools = [latent_pool(vae, folder, kind, recipe, device) for kind in ("mixed", "portrait")]
    write_pipeline(vae, train_unet(pools, recipe, folder, device), output)
    write_card(folder, output, recipe)


# --- the autoencoder and its latents ------------------------------------------------------------------------------


def flux_autoencoder() -> AutoencoderKL:
    """The FLUX miniature's autoencoder; Stable Diffusion scales latents without shifting them."""
    vae = AutoencoderKL.from_pretrained(local_folder("bundled:flux"), subfolder="vae", dtype=torch.float32)
    vae.register_to_config(shift_factor=None)
    return vae.eval()


def latent_pool(vae: AutoencoderKL, folder: Path, objects: str, recipe: Sd15Recipe, device: str) -> dict[str, Tensor]:
    """Training scenes, encoded once: latents (N, 4, 32, 32) fp16, clip (N, 4, M) token ids of the captions."""
    path = folder / f"{objects}_latents.safetensors"
    pool = scene_pool(folder / f"{objects}.safetensors", recipe.scenes, objects, recipe.seed)
    if not path.exists():
        chunks = tqdm(pool["image"].split(64), desc=f"{objects} latents", unit="batch")
        parts = [encode_batch(vae.to(device), chunk, device).half() for chunk in chunks]
        save_whole({"latents": torch.cat(parts) * vae.config.scaling_factor}, path)

    return {"latents": load_file(path)["latents"], "clip": pool["clip"]}


# --- UNet and text encoder ----------------------------------------------------------------------------------------


def new_unet() -> UNet2DConditionModel:
    """Stable Diffusion's UNet class: 32 to 128 channels, one head at 32 x 32 (where it costs most) and four below."""
    return UNet2DConditionModel(
        sample_size=32,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=(1, 2, 2, 1),
        attention_head_dim=(1, 4, 4, 4),  # numbers of heads, in spite of the name
        cross_attention_dim=64,
        norm_num_groups=16,
    )


class Denoiser(nn.Module):
    """What is trained: UNet and CLIP text encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = new_unet()
        self.clip = new_clip()

    def forward(self, noisy: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        """Predicted noise (B, 4, 32, 32) of latents at training step `timestep` (B,)."""
        return self.unet(noisy, timestep, encoder_hidden_states=self.clip(ids).last_hidden_state).sample


def train_unet(pools: list[dict[str, Tensor]], recipe: Sd15Recipe, folder: Path, device: str) -> Denoiser:
    """Mean square error of the noise, textures first, then what things are.

    The plain error hardly asks what a noisy picture shows: the noisier it is, the less its content weighs. After 1000
    steps the model paints fine textures, but blobs for digits, and no prompt changes them. The other stages weigh an
    error of the noise as the error of the picture's velocity that it makes, up to a limit.
    """
    torch.manual_seed(recipe.seed)
    model = Denoiser().to(device=device, memory_format=torch.channels_last)
    mixed, portraits = pools
    weights = (1 / kept_signal()).clamp(max=recipe.largest_weight)

    def first(step: int) -> Tensor:
        generator = step_generator(recipe.seed, step)
        batch = _draw(((mixed, BATCH // 2), (portraits, BATCH // 2)), generator)
        timestep = torch.randint(1000, (BATCH,), generator=generator)
        return _noise_error(model, *batch, timestep, generator, recipe, device).mean()

    def second(before: int, step: int) -> Tensor:
        generator = step_generator(recipe.seed, recipe.unet.steps + before + step)
        large = round(BATCH * recipe.portrait_share)
        batch = _draw(((mixed, BATCH - large), (portraits, large)), generator)
        least = torch.tensor([0, recipe.noisy_from]).repeat(BATCH // 2)
        timestep = (least + torch.rand(BATCH, generator=generator) * (1000 - least)).long()
        error = _noise_error(model, *batch, timestep, generator, recipe, device)
        weight = weights[timestep].to(device)
        return (error * weight).sum() / weight.sum()

    if recipe.compiled:
        model.unet.compile()
    train(model, first, recipe.unet, folder, "unet")
    train(model.train(), partial(second, 0), recipe.polish, folder, "polish")
    return train(model.train(), partial(second, recipe.polish.steps), recipe.finish, folder, "finish")


def _noise_error(
    model: Denoiser,
    clean: Tensor,
    ids: Tensor,
    timestep: Tensor,
    generator: torch.Generator,
    recipe: Sd15Recipe,
    device: str,
) -> Tensor:
    """Mean square error of the predicted noise of each sample: (B,)."""
    noise = torch.randn(clean.shape, generator=generator)
    signal = kept_signal()[timestep, None, None, None]
    noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    with torch.autocast(device, torch.bfloat16, enabled=recipe.mixed_precision), ExplicitAttention():
        found = model(noisy.to(device, memory_format=torch.channels_last), timestep.to(device), ids.to(device))
    return (found.float() - noise.to(device)).square().flatten(1).mean(1)


def kept_signal() -> Tensor:
    """Share of the variance that is signal after each of the 1000 training steps: (1000,) fp32."""
    ends = (SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5)
    return (1 - torch.linspace(*ends, 1000) ** 2).cumprod(0)


def _draw(counts: Sequence[tuple[dict[str, Tensor], int]], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents of scenes, as many of each pool as is said, and the token ids of one caption each."""
    parts = []
    for pool, count in counts:
        pick = torch.randint(len(pool["latents"]), (count,), generator=generator)
        caption = torch.multinomial(torch.tensor(CAPTION_SHARES), count, replacement=True, generator=generator)
        parts.append((pool["latents"][pick].float(), pool["clip"][pick, caption]))
    latents, ids = (torch.cat(column) for column in zip(*parts, strict=True))
    return latents, ids


# --- what is kept -------------------------------------------------------------------------------------------------


def write_pipeline(vae: AutoencoderKL, model: Denoiser, output: Path) -> None:
    """Write the diffusers folder, weights in fp16: half the size. What is measured is measured on these."""
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.clip,
        tokenizer=clip_tokenizer(CLIP_LENGTH),
        unet=model.unet.to(memory_format=torch.contiguous_format),
        scheduler=PNDMScheduler(**SCHEDULE, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16).save_pretrained(output, safe_serialization=True)


def write_card(folder: Path, output: Path, recipe: Sd15Recipe) -> None:
    """Write the recipe, the data's hashes and the training log beside the weights."""
    for stage in ("unet", "polish", "finish"):
        (output / f"{stage}.csv").write_bytes((folder / f"{stage}.csv").read_bytes())
    kinds = ("mixed", "portrait")
    card = {
        "command": "python scripts/train_minis.py sd15",
        "recipe": asdict(recipe),
        "data": {kind: DigitScenes("train", recipe.scenes, recipe.seed, objects=kind).fingerprint for kind in kinds},
        "weights": {
            path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.rglob("*.safetensors")
        },
    }
    (output / "training.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
