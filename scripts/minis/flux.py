"""The FLUX miniature: a complete `FluxPipeline` folder trained on digit scenes.

First the autoencoder (64 px -> 32 x 32 x 4 latents, packed 2 x 2 to 256 image tokens, as FLUX packs its
own), then transformer, T5 and CLIP text encoders together by flow matching: `x_t = t noise + (1 - t) latent`, target
`noise - latent`. That has two parts: `flow` learns where things are, the polishing stages what they look like.

The caption of a scene is drawn anew at each step: in full, with the class word alone, with the colour word alone, or
empty. So neither word can be inferred from the other, and the empty caption serves classifier-free guidance. CLIP's
pooled vector is dropped half of the time, so that what a caption says must also travel through attention.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from attention_chains.data.digit_scenes import DigitScenes, Scene, make_scene
from minis.attention import ExplicitAttention
from minis.loop import Recipe, step_generator, train
from minis.tokenizers import clip_tokenizer, t5_tokenizer

TEXT_LENGTH = 16
CLIP_LENGTH = 24
BATCH = 32
CAPTION_SHARES = (0.45, 0.25, 0.2, 0.1)  # full, class word alone, colour word alone, empty
FOREGROUND_WEIGHT = 4.0  # at first a patch full of digit counts 1 + this much in the loss
POOLED_DROPOUT = 0.5


@dataclass(frozen=True)
class FluxRecipe:
    """Everything that decides the weights."""

    seed: int = 0
    scenes: int = 24_000
    mixed_precision: bool = True  # the second stage's matrix products in bf16: a fifth faster on a CPU that has it
    autoencoder: Recipe = Recipe(steps=500, learning_rate=2e-3, ema=0.99)
    flow: Recipe = Recipe(steps=3000, learning_rate=2e-3)
    weighted_steps: int = 1500  # weighting by the clean image biases the velocity (it fills shapes in), so it must end
    shift: float = 2.0  # of the logistic-normal noise levels
    portraits: int = 8_000  # large digits on calm backgrounds: there the class word is learned, when polishing
    portrait_share: float = 0.75  # of the scenes of a polishing step
    polish_shifts: tuple[float, float] = (2.0, 16.0)  # half of the noise levels each: shapes are decided above .9
    polish: Recipe = Recipe(steps=1600, learning_rate=1.5e-3, muon=True)
    polishings: int = 4  # each starts from the last one's average with a fresh rate: classes are learned late


def build(folder: Path, output: Path, recipe: FluxRecipe | None = None, device: str = "cpu") -> None:
    """Train both stages (or resume them) in `folder` and write the finished pipeline to `output`."""
    recipe = recipe or FluxRecipe()
    folder.mkdir(parents=True, exist_ok=True)
    pool = scene_pool(folder / "scenes.safetensors", recipe.scenes, "mixed", recipe.seed)
    portraits = scene_pool(folder / "portraits.safetensors", recipe.portraits, "portrait", recipe.seed)
    vae = train_autoencoder(pool["image"], recipe, folder, device)
    pool["latents"] = encode(vae, pool["image"], folder / "latents.safetensors", device)
    portraits["latents"] = encode(vae, portraits["image"], folder / "portrait_latents.safetensors", device)
    model = train_flow(pool, portraits, recipe, folder, device)
    write_pipeline(vae, model, output)
    write_card(folder, output, recipe)


# --- data ---------------------------------------------------------------------------------------------------------


def captions(scene: Scene) -> tuple[str, str, str, str]:
    """The four captions of a scene: full, class words alone, colour words alone, empty."""
    by_class = "a photo of " + " and ".join(f"a {item.digit}" for item in scene.objects)
    by_colour = "a photo of " + " and ".join(f"a {item.colour} number" for item in scene.objects)
    return scene.caption, by_class, by_colour, ""


def scene_pool(path: Path, count: int, objects: str, seed: int) -> dict[str, Tensor]:
    """Training scenes, made once: image (N, 3, 64, 64) uint8, weight (N, 256), t5 (N, 4, L) and clip (N, 4, M) ids."""
    if path.exists():
        return load_file(path)
    t5, clip = t5_tokenizer(TEXT_LENGTH), clip_tokenizer(CLIP_LENGTH)
    columns: dict[str, list] = {"image": [], "weight": [], "t5": [], "clip": []}
    for index in tqdm(range(count), desc=path.stem, unit="scene"):
        scene = make_scene("train", seed, index, objects)
        texts = list(captions(scene))
        cover = np.any([item.mask for item in scene.objects], axis=0).reshape(16, 4, 16, 4).mean((1, 3))
        columns["image"].append(torch.from_numpy(scene.image).permute(2, 0, 1))
        columns["weight"].append(torch.from_numpy(1 + FOREGROUND_WEIGHT * cover.reshape(256)).float())
        columns["t5"].append(t5(texts, padding="max_length", return_tensors="pt").input_ids)
        columns["clip"].append(clip(texts, padding="max_length", return_tensors="pt").input_ids)
    pool = {name: torch.stack(values).contiguous() for name, values in columns.items()}
    save_whole(pool, path)
    return pool


def save_whole(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a file wholly or not at all: what is there is not made again."""
    save_file(tensors, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def as_pixels(images: Tensor) -> Tensor:
    """Map uint8 images to floats in [-1, 1]."""
    return images.float() / 127.5 - 1


# --- the autoencoder ----------------------------------------------------------------------------------------------


def new_autoencoder() -> AutoencoderKL:
    """FLUX's autoencoder class, with one down-sampling and four latent channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def train_autoencoder(images: Tensor, recipe: FluxRecipe, folder: Path, device: str) -> AutoencoderKL:
    """Train on absolute error with a light pull towards the unit Gaussian; then set its shift and scale factors."""
    torch.manual_seed(recipe.seed)
    vae = new_autoencoder().to(device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator(recipe.seed, step)
        batch = as_pixels(images[torch.randint(len(images), (BATCH,), generator=generator)]).to(device)
        posterior = vae.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        restored = vae.decode(posterior.mean + posterior.std * noise).sample
        return F.l1_loss(restored, batch) + 1e-5 * posterior.kl().mean() / posterior.mean[0].numel()

    train(vae, loss_at, recipe.autoencoder, folder, "autoencoder")
    sample = encode_batch(vae, images[:1024], device)
    vae.register_to_config(shift_factor=sample.mean().item(), scaling_factor=1 / sample.std().item())
    return vae


@torch.no_grad()
def encode_batch(vae: AutoencoderKL, images: Tensor, device: str) -> Tensor:
    """Posterior means of uint8 images, unscaled: (B, 4, 32, 32) fp32."""
    return vae.encode(as_pixels(images).to(device)).latent_dist.mean.float().cpu()


def encode(vae: AutoencoderKL, images: Tensor, path: Path, device: str) -> Tensor:
    """Shifted, scaled and packed latents of the pool, made once: (N, 256, 16) fp16."""
    if path.exists():
        return load_file(path)["latents"]
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    parts = [
        ((encode_batch(vae, chunk, device) - shift) * scale).half()
        for chunk in tqdm(images.split(64), desc="latents", unit="batch")
    ]
    latents = pack(torch.cat(parts)).contiguous()
    save_whole({"latents": latents}, path)
    return latents


def pack(latents: Tensor) -> Tensor:
    """(B, 4, 32, 32) -> (B, 256, 16), 2 x 2 neighbours to one token, in FLUX's order."""
    batch, channels, height, width = latents.shape
    return FluxPipeline._pack_latents(latents, batch, channels, height, width)


# --- transformer and text encoders --------------------------------------------------------------------------------


def new_transformer() -> FluxTransformer2DModel:
    """FLUX's transformer class: 3 dual and 3 single blocks, 4 heads of 32; begins as the identity."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=3,
        num_single_layers=3,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    _start_as_identity(transformer)
    return transformer


def new_t5() -> T5EncoderModel:
    """A T5 encoder of two layers, 64 wide."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer(TEXT_LENGTH)),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


def new_clip() -> CLIPTextModel:
    """A CLIP text encoder of two layers, 64 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_tokenizer(CLIP_LENGTH)),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CLIP_LENGTH,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


class Generator(nn.Module):
    """What the second stage trains: transformer, T5 encoder, CLIP text encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = new_transformer()
        self.t5 = new_t5()
        self.clip = new_clip()
        self.register_buffer("image_ids", FluxPipeline._prepare_latent_image_ids(1, 16, 16, "cpu", torch.float32))
        self.register_buffer("text_ids", torch.zeros(TEXT_LENGTH, 3))

    def forward(self, noisy: Tensor, sigma: Tensor, t5_ids: Tensor, clip_ids: Tensor, keep_pooled: Tensor) -> Tensor:
        """Velocity (B, 256, 16) of noisy latents at noise level `sigma` (B,)."""
        return self.transformer(
            hidden_states=noisy,
            timestep=sigma,
            encoder_hidden_states=self.t5(t5_ids).last_hidden_state,
            pooled_projections=self.clip(clip_ids).pooler_output * keep_pooled,
            img_ids=self.image_ids,
            txt_ids=self.text_ids,
        ).sample


def _start_as_identity(transformer: FluxTransformer2DModel) -> None:
    """Zero the modulations and the output layer, as diffusion transformers are started."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear"))):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)


def train_flow(
    pool: dict[str, Tensor], portraits: dict[str, Tensor], recipe: FluxRecipe, folder: Path, device: str
) -> Generator:
    """Flow matching in two stages: first where things are, then what they look like.

    The first stage weighs the foreground up at the start. It learns colours and places, but no classes: the class of a
    digit decides its shape at noise levels above .9, of which it sees few. The second stage sees many of them, mostly
    on portraits.
    """
    torch.manual_seed(recipe.seed)
    model = Generator().to(device)

    def first(step: int) -> Tensor:
        generator = step_generator(recipe.seed, step)
        batch = _draw(pool, BATCH, generator)
        weight = batch.pop("weight") if step < recipe.weighted_steps else torch.ones(BATCH, 256)
        shift = torch.full((BATCH,), recipe.shift)
        return _velocity_error(model, batch, weight, shift, generator, recipe, device)

    def second(before: int, step: int) -> Tensor:
        generator = step_generator(recipe.seed, recipe.flow.steps + before + step)
        large = round(BATCH * recipe.portrait_share)
        parts = (_draw(portraits, large, generator), _draw(pool, BATCH - large, generator))
        batch = {name: torch.cat([part[name] for part in parts]) for name in ("clean", "t5", "clip")}
        shift = torch.tensor(recipe.polish_shifts).repeat(BATCH // 2)
        return _velocity_error(model, batch, torch.ones(BATCH, 256), shift, generator, recipe, device)

    train(model, first, recipe.flow, folder, "flow")
    for done, stage in enumerate(polishing_stages(recipe)):
        train(model, partial(second, done * recipe.polish.steps), recipe.polish, folder, stage)
    return model


def polishing_stages(recipe: FluxRecipe) -> list[str]:
    """Name the stages after the first: polish, polish2, polish3."""
    return ["polish", *(f"polish{number}" for number in range(2, recipe.polishings + 1))]


def _draw(pool: dict[str, Tensor], count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Scenes of the pool, each with one of its captions."""
    pick = torch.randint(len(pool["latents"]), (count,), generator=generator)
    caption = torch.multinomial(torch.tensor(CAPTION_SHARES), count, replacement=True, generator=generator)
    return {
        "clean": pool["latents"][pick].float(),
        "weight": pool["weight"][pick],
        "t5": pool["t5"][pick, caption],
        "clip": pool["clip"][pick, caption],
    }


def _velocity_error(
    model: Generator,
    batch: dict[str, Tensor],
    weight: Tensor,
    shift: Tensor,
    generator: torch.Generator,
    recipe: FluxRecipe,
    device: str,
) -> Tensor:
    """Weighted mean square error of the velocity at random noise levels, CLIP's vector dropped half of the time."""
    clean = batch["clean"]
    sigma = _shift(torch.randn(len(clean), generator=generator).sigmoid(), shift)
    noise = torch.randn(clean.shape, generator=generator)
    keep_pooled = (torch.rand(len(clean), 1, generator=generator) >= POOLED_DROPOUT).float()
    noisy = torch.lerp(clean, noise, sigma[:, None, None])
    inputs = (noisy, sigma, batch["t5"], batch["clip"], keep_pooled)
    with torch.autocast(device, torch.bfloat16, enabled=recipe.mixed_precision), ExplicitAttention():
        velocity = model(*(value.to(device) for value in inputs))
    error = (velocity.float() - (noise - clean).to(device)).square().mean(-1)  # (B, 256)
    weight = weight.to(device)
    return (error * weight).sum() / weight.sum()


def _shift(sigma: Tensor, shift: Tensor) -> Tensor:
    return shift * sigma / (1 + (shift - 1) * sigma)


# --- what is kept -------------------------------------------------------------------------------------------------


def write_pipeline(vae: AutoencoderKL, model: Generator, output: Path) -> None:
    """Write the diffusers folder, weights in fp16: half the size. What is measured is measured on these."""
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=model.clip,
        tokenizer=clip_tokenizer(CLIP_LENGTH),
        text_encoder_2=model.t5,
        tokenizer_2=t5_tokenizer(TEXT_LENGTH),
        transformer=model.transformer,
    ).to(torch.float16).save_pretrained(output, safe_serialization=True)


def write_card(folder: Path, output: Path, recipe: FluxRecipe) -> None:
    """Write the recipe, the data's hash and the training logs beside the weights."""
    data = DigitScenes("train", recipe.scenes, recipe.seed, objects="mixed").fingerprint
    portraits = DigitScenes("train", recipe.portraits, recipe.seed, objects="portrait").fingerprint
    for stage in ("autoencoder", "flow", *polishing_stages(recipe)):
        (output / f"{stage}.csv").write_bytes((folder / f"{stage}.csv").read_bytes())
    weights = {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.rglob("*.safetensors")
    }
    card = {
        "command": "python scripts/train_minis.py flux",
        "recipe": asdict(recipe),
        "data": data,
        "portraits": portraits,
        "weights": weights,
    }
    (output / "training.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
