"""Networks whose features the generation metrics compare: torch-fidelity's Inception, and one for the miniatures.

Both are feature extractors of torch-fidelity, of which its own API knows them by name. The numbers of "mini-vit" are
those of a small classifier of digit scenes: they compare miniatures, never with published Inception figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity import register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from torchvision.transforms.functional import resize

from attention_chains.data.errors import DataError
from attention_chains.models import assets, vit
from attention_chains.models.assets import file_digest, first_line
from attention_chains.models.errors import AssetError
from attention_chains.models.linear_head import cached_head, missing_head

EXTRACTORS = ("mini-vit", "inception-v3-compat")
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # its name holds eight digits
_MINI, _SIDE = "bundled:vit", 64
_CPU = torch.device("cpu")


class MiniViT(FeatureExtractorBase):
    """The bundled ViT miniature: "cls" (128), its CLS token after the last norm, and "logits" (10), its class scores.

    Parameters
    ----------
    name, features_list
        As torch-fidelity passes them; its other options do not apply.
    """

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        model = vit.load(_MINI, None, _CPU, torch.float32, _SIDE)
        self.network = model.network
        for key in ("mean", "std"):
            values = torch.tensor(getattr(model.preprocess, key)).view(3, 1, 1)
            self.register_buffer(key, values, persistent=False)

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) uint8 to the features asked for, fp32; other sizes are squashed to 64, bilinear."""
        square = resize(input, [_SIDE, _SIDE], antialias=True)
        tokens = self.network.forward_features((square.float() / 255 - self.mean) / self.std)  # (B, tokens, 128)
        features = {"cls": tokens[:, 0], "logits": self.network.forward_head(tokens)}
        return tuple(features[asked] for asked in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Names of the features."""
        return "cls", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """Feature that a metric of torch-fidelity reads: ISC the logits, the others "cls"."""
        return "logits" if metric == "isc" else "cls"

    @staticmethod
    def can_be_compiled() -> bool:
        """Whether torch-fidelity may compile it."""
        return False


register_feature_extractor("mini-vit", MiniViT)


@dataclass(frozen=True)
class Extractor:
    """A feature extractor on its device.

    Attributes
    ----------
    name : str
        One of `EXTRACTORS`.
    network : FeatureExtractorBase
        Gives the features and the logits of images (B, 3, H, W) uint8.
    device : torch.device
        Where it runs, in fp32.
    """

    name: str
    network: FeatureExtractorBase
    device: torch.device

    @torch.no_grad()
    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of images, one pass an image: neither its batch nor its place changes a bit.

        Parameters
        ----------
        images
            (B, 3, H, W) uint8, RGB.

        Returns
        -------
        tuple of Tensor
            (B, d) fp32 for FID and KID, and (B, classes) fp32 for IS, on the extractor's device.

        Raises
        ------
        DataError
            They are no such images.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise DataError(
                f"The images are a tensor {tuple(images.shape)} of {images.dtype}, but {self.name} takes (images, 3, "
                "height, width) of torch.uint8: convert them."
            )
        found = [self.network(image[None]) for image in images.to(self.device)]
        features, logits = (torch.cat(column) for column in zip(*found, strict=True))
        return features, logits


def load_extractor(name: str, device: torch.device) -> Extractor:
    """Load an extractor; Inception's weights are downloaded once, and run only if their hash is the known one.

    Parameters
    ----------
    name
        "mini-vit" (d 128, 10 classes), or "inception-v3-compat" ("2048" and "logits_unbiased", 1008 classes: what
        torch-fidelity's metrics read, protocol 2).
    device
        Where it runs.

    Raises
    ------
    AssetError
        There is no such extractor, or its weights are not there or are others.
    """
    _check_name(name)
    make: dict[str, Callable[[], FeatureExtractorBase]] = {"mini-vit": _mini, "inception-v3-compat": _inception}
    return Extractor(name, make[name]().to(device).eval().requires_grad_(False), device)


def missing_extractor(name: str) -> list[str]:
    """What stands between this machine and an extractor: no sentence or one. Nothing is downloaded."""
    try:
        _check_name(name)
        if name == "mini-vit":
            assets.local_folder(_MINI, layout=vit.LAYOUT)
        elif not cached_head(URL_INCEPTION_V3).is_file():
            return missing_head(URL_INCEPTION_V3, INCEPTION_SHA256)
        else:
            _inception_file()
    except AssetError as error:
        return [str(error)]
    return []


def extractor_digest(name: str) -> str:
    """SHA-256 (hex) over an extractor's name and its weights; of Inception it is known without them.

    Raises
    ------
    AssetError
        There is no such extractor, or the miniature's weights are not there.
    """
    _check_name(name)
    weights = assets.weights_digest(_MINI, layout=vit.LAYOUT) if name == "mini-vit" else INCEPTION_SHA256
    return hashlib.sha256(f"{name} {weights}".encode()).hexdigest()


def _check_name(name: str) -> None:
    if name not in EXTRACTORS:
        raise AssetError(f"There is no feature extractor '{name}': set data.extractor to {' or '.join(EXTRACTORS)}.")


def _mini() -> FeatureExtractorBase:
    return MiniViT("mini-vit", ["cls", "logits"])


def _inception() -> FeatureExtractorBase:
    path = _inception_file()
    return FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(path))


def _inception_file() -> Path:
    """File of the weights in torch's hub folder, fetched where it is not there; a pickle, so its hash comes first."""
    path = cached_head(URL_INCEPTION_V3)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=INCEPTION_SHA256, progress=False)
        except (OSError, RuntimeError) as error:  # no network; or another file than it should be, which is not kept
            raise AssetError(
                f"{URL_INCEPTION_V3} cannot be downloaded ({first_line(error)}): put the file at {path}."
            ) from error
    if (found := file_digest(path)) != INCEPTION_SHA256:
        raise AssetError(
            f"{path} has the SHA-256 {found}, not the {INCEPTION_SHA256} of torch-fidelity's Inception: delete it, and "
            "run again to fetch it."
        )
    return path
