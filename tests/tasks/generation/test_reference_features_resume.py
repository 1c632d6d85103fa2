"""The features of the reference images: bad images are all told, and a lost file is made again without a new sample."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attention_chains.data.errors import DataError
from attention_chains.models.sd15 import StableDiffusion
from attention_chains.tasks.probe import load_tensors
from attention_chains.tasks.reference_features import FILE, has_reference, keep_reference


class Reference:
    """Images of one grey each, some of which cannot be read; the ids are not in order."""

    def __init__(self, bad: tuple[str, ...]):
        self.ids, self.bad, self.fingerprint, self.skipped = ["c", "a", "d", "b"], bad, "f", {}

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        if self.ids[index] in self.bad:
            raise DataError(f"{self.ids[index]} is torn.")
        return SimpleNamespace(image=np.full((2, 2, 3), ord(self.ids[index]), np.uint8))


class Extractor:
    def features(self, pixels):
        return pixels.float().mean((1, 2, 3))[:, None], torch.zeros(len(pixels), 2)


def test_every_bad_image_is_told_and_nothing_is_kept(tmp_path):
    with pytest.raises(DataError, match=r"^2 of 4 reference images cannot be used.*skip_bad=true:\na is torn\.\nd is"):
        keep_reference(tmp_path, Reference(("d", "a")), Extractor(), "x")
    assert not list(tmp_path.iterdir())


def test_bad_images_are_left_out_where_that_is_asked_for(tmp_path, caplog):
    reference = Reference(("d", "a"))
    keep_reference(tmp_path, reference, Extractor(), "x", skip_bad=True)
    assert "2 of 4 reference images cannot be used and are left out." in caplog.text
    tensors, _ = load_tensors(tmp_path / FILE, "f x")
    assert tensors["features"][:, 0].tolist() == [ord("b"), ord("c")]  # in the order of the ids
    assert has_reference(tmp_path, reference, "x") and not has_reference(tmp_path, reference, "y")


def test_images_that_were_not_taken_are_counted(tmp_path, caplog):
    reference = Reference(())
    reference.skipped = {"dead links": 3, "too small": 0}
    keep_reference(tmp_path, reference, Extractor(), "x")
    assert "Reference images that were not taken: 3 dead links." in caplog.text


def test_a_finished_run_makes_a_lost_file_again_and_no_sample(generate, monkeypatch):
    first = generate("data.n=2")
    made = (first.folder / FILE).read_bytes()
    (first.folder / FILE).unlink()
    monkeypatch.setattr(StableDiffusion, "noise", lambda *_: pytest.fail("a sample was generated again"))
    assert generate("data.n=2").records == first.records
    assert (first.folder / FILE).read_bytes() == made
