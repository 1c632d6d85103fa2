"""The CLIP miniature: an image and a text tower that agree on what is in a scene, trained on its captions.

Captions repeat themselves: ten digits in eight colours make few different ones, so in a batch most captions are true of
several images. An image is therefore drawn to the caption that is true of it, and a caption to all images it is true
of, in equal shares. There are three kinds of captions and three contrasts, each among captions of one kind: by class
alone, in full, by colour alone. (In one contrast of all, colours tell most captions apart and classes are not learned.)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_chains.data.digit_scenes import COLOURS, DIGITS, SIDE
from minis.canvas import Canvas, data_hash, load_canvas
from minis.loop import Recipe, step_generator, train
from minis.tokenizers import open_clip_tokenizer
from minis.vision import BATCH, PATCH, MaskHead, accuracy, normalise, positions, write_record, write_weights

LENGTH = 16
TEMPLATE = "A photo of a {}."
STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
VISION = {"image_size": SIDE, "patch_size": PATCH, "layers": 6, "width": 128, "head_width": 32}
TEXT = {"context_length": LENGTH, "width": 64, "heads": 2, "layers": 2, "pool_type": "eos", "eos_id": 1}
EMBEDDING = 64


@dataclass(frozen=True)
class CLIPRecipe:
    """Everything that decides the weights."""

    seed: int = 0
    backgrounds: int = 8000
    scenes: int = 1000  # held-out ones, of the card's accuracy
    calm: int = 300  # steps in which backgrounds gain contrast and glyphs come to move
    contrastive: Recipe = Recipe(steps=1600, learning_rate=2e-3, weight_decay=0.05, muon=True)


class Captions:
    """Every caption there is, tokenised: by class (A photo of a <class>.), in full, by colour; and what each says.

    `kinds`, `classes` and `colours` (C,) hold a caption's kind and what it says, -1 where it says nothing.
    """

    def __init__(self) -> None:
        said = [(0, digit, -1, TEMPLATE.format(name)) for digit, name in enumerate(DIGITS)]
        for colour, ink in enumerate(COLOURS):
            said += [(1, digit, colour, f"a photo of a {ink} {name}") for digit, name in enumerate(DIGITS)]
            said.append((2, -1, colour, f"a photo of a {ink} number"))
        self.kinds, self.classes, self.colours = torch.tensor([numbers for *numbers, _ in said]).T
        texts = [text for *_, text in said]
        self.tokens = open_clip_tokenizer(LENGTH)(texts, padding="max_length", return_tensors="pt").input_ids

    def agree(self, labels: Tensor, colours: Tensor) -> Tensor:
        """Which captions (columns) are true of which images (rows): (B, C) bool."""
        by_class = (self.classes == labels[:, None]) | (self.classes < 0)
        return by_class & ((self.colours == colours[:, None]) | (self.colours < 0))


class Contrastive(nn.Module):
    """CLIP and, in training alone, a layer that says from each patch token which of its pixels are digit."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.clip = open_clip.CLIP(EMBEDDING, VISION, TEXT | {"vocab_size": vocabulary}, output_dict=True)
        self.clip.visual.output_tokens = True
        self.clip.visual.positional_embedding.data[1:] = positions(VISION["width"])
        self.mask_head = MaskHead(VISION["width"])

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities of images and texts (B, C), scaled, and logits of the mask (B, 64, 64)."""
        image, patches = self.clip.visual(pixels)
        text = self.clip.encode_text(tokens, normalize=True)
        scale = self.clip.logit_scale.clamp(max=4.6).exp()
        return scale * F.normalize(image.float(), dim=-1) @ text.float().T, self.mask_head(patches)


def build(folder: Path, output: Path, recipe: CLIPRecipe | None = None, device: str = "cpu") -> None:
    """Train (or resume) in `folder` and write the finished model to `output`."""
    recipe = recipe or CLIPRecipe()
    folder.mkdir(parents=True, exist_ok=True)
    canvas = load_canvas(folder / "backgrounds.safetensors", recipe.backgrounds, recipe.seed)
    write_clip(train_contrastive(canvas, recipe, folder, device), output)
    figures = {"accuracy": accuracy(zero_shot(output), recipe.scenes, STATISTICS), "scenes": recipe.scenes}
    write_record(folder, output, "clip", recipe, data_hash(canvas), figures)


def train_contrastive(canvas: Canvas, recipe: CLIPRecipe, folder: Path, device: str) -> nn.Module:
    """Both directions of the contrast, and the mask, on scenes painted anew at each step."""
    torch.manual_seed(recipe.seed)
    captions = Captions()
    model = Contrastive(len(open_clip_tokenizer(LENGTH))).to(device)

    def loss_at(step: int) -> Tensor:
        generator = step_generator(recipe.seed, step)
        picks = canvas.draw(BATCH, generator)
        ease = min(1.0, step / recipe.calm)
        scene = canvas.paint(picks, generator, relief=ease, spread=ease)
        agree = captions.agree(canvas.labels[picks], scene.colours)
        heard = agree.any(0)  # captions that are true of some image of the batch
        # Under autocast to bf16 torch's fused attention is slower on a CPU than its plain one.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(device, torch.bfloat16):
            similarity, mask = model(normalise(scene.images, STATISTICS).to(device), captions.tokens[heard].to(device))
        agree, kinds = agree[:, heard].float().to(device), captions.kinds[heard]
        where = F.binary_cross_entropy_with_logits(mask.float(), scene.alpha.to(device))
        return sum(contrast(similarity[:, kinds == kind], agree[:, kinds == kind]) for kind in range(3)) / 3 + where

    return train(model, loss_at, recipe.contrastive, folder, "contrastive").clip


def contrast(similarity: Tensor, agree: Tensor) -> Tensor:
    """Mean of the cross-entropies over captions and over images; `agree` (B, C): 1 where a caption is true, else 0."""
    by_image = F.cross_entropy(similarity, agree / agree.sum(1, keepdim=True))
    by_text = F.cross_entropy(similarity.T, (agree / agree.sum(0)).T)
    return (by_image + by_text) / 2


def write_clip(clip: nn.Module, output: Path) -> None:
    """Write the folder that `open_clip.create_model("local-dir:...")` reads: weights in fp16, tokenizer, config."""
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = open_clip_tokenizer(LENGTH)
    tokenizer.save_pretrained(output)
    text = TEXT | {
        "vocab_size": len(tokenizer),
        "hf_tokenizer_name": "bundled",
    }  # open_clip reads the one in the folder
    mean, deviation = STATISTICS
    preprocessing = {"mean": mean, "std": deviation, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {
        "model_cfg": {"embed_dim": EMBEDDING, "vision_cfg": VISION, "text_cfg": text},
        "preprocess_cfg": preprocessing,
    }
    (output / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_weights(clip.state_dict(), output / "open_clip_model.safetensors")


def zero_shot(folder: Path) -> Callable[[Tensor], Tensor]:
    """Load the finished model: pixels (B, 3, 64, 64) -> similarity with "A photo of a <class>." (B, 10)."""
    clip = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        text = clip.encode_text(tokenizer([TEMPLATE.format(name) for name in DIGITS]), normalize=True)
    return lambda pixels: clip.encode_image(pixels, normalize=True) @ text.T
