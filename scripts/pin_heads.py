"""Fetch the published DINO heads once, and keep their hashes in data/head_sha256.txt: `make heads`.

Their publisher gives no hashes. What its server gives today is opened without running code, must be a linear layer, and
is what every later run insists on (trust on first use). Compare the lines that are printed with a colleague's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import OmegaConf
from tqdm import tqdm

from attention_chains.models.errors import AssetError
from attention_chains.models.linear_head import HASHES, is_url, pin

MODELS = Path(__file__).resolve().parent.parent / "configs" / "model"


def main() -> None:
    """Pin every head that a model's configuration names by URL; say what failed, and go on."""
    failures = []
    for head in tqdm(published(), desc="heads", unit="head", disable=None):
        try:
            tqdm.write(f"{pin(head)}  {head.rsplit('/', 1)[-1]}")
        except AssetError as error:
            failures.append(str(error))
    if failures:
        sys.exit("\n".join(failures))
    print(f"Written to {HASHES}.")


def published() -> list[str]:
    """URLs of the heads whose hash is in no configuration."""
    models = [OmegaConf.load(path) for path in sorted(MODELS.glob("*.yaml"))]
    settings = [each for model in models for each in model.get("at", {}).values() if each]
    named = {each.head: each.get("head_sha256") for each in settings if each.get("head")}
    return [head for head, sha256 in named.items() if is_url(head) and sha256 is None]


if __name__ == "__main__":
    main()
