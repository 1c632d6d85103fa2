"""Features of the generation metrics: the networks' own, alone or in any batch, and what torch-fidelity's API reads."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from attention_chains.data.digit_scenes import DigitScenes
from attention_chains.data.errors import DataError
from attention_chains.models import AssetError, extractors
from attention_chains.models.extractors import EXTRACTORS, extractor_digest, load_extractor, missing_extractor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scenes() -> torch.Tensor:
    """Digit scenes (24, 3, 64, 64) uint8."""
    return torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in DigitScenes(n=24)])


@pytest.fixture(scope="module")
def mini():
    return load_extractor("mini-vit", CPU)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub folder of torch's: where the weights of Inception would lie."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]


@pytest.fixture
def inception(hub, monkeypatch):
    """Weights of Inception with random values, in their place, their hash made the known one."""
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    monkeypatch.setattr(torch, "load", lambda *_, **__: {})
    hub.parent.mkdir()
    hub.write_bytes(b"weights")
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", hashlib.sha256(b"weights").hexdigest())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield load_extractor("inception-v3-compat", CPU)


def refusal(action, kind=AssetError) -> str:
    with pytest.raises(kind) as refused:
        action()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_miniatures_features_are_its_cls_token_and_its_own_class_scores(mini, scenes):
    from attention_chains.models import vit

    model = vit.load("bundled:vit", None, CPU, torch.float32, 64)
    pixels = model.pixels([np.asarray(image.permute(1, 2, 0)) for image in scenes])
    tokens = []
    hook = model.network.norm.register_forward_hook(lambda _, __, output: tokens.append(output))
    expected = model.logits(pixels).detach()
    hook.remove()
    features, logits = mini.features(scenes)
    assert features.dtype == logits.dtype == torch.float32 and features.shape == (24, 128)
    torch.testing.assert_close(features, tokens[0][:, 0], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)


def test_features_are_the_same_bits_in_any_batch_and_order(mini, scenes):
    together = mini.features(scenes[:5])
    for found, apart in zip(
        together, zip(*(mini.features(scenes[i : i + 1]) for i in range(5)), strict=True), strict=True
    ):
        assert torch.equal(found, torch.cat(apart))
    for found, turned in zip(together, mini.features(scenes[:5].flip(0)), strict=True):
        assert torch.equal(found, turned.flip(0))


def test_an_image_of_another_size_is_seen_as_its_squashed_self(mini, scenes):
    large = scenes[:2].repeat_interleave(3, 2).repeat_interleave(2, 3)  # 192 x 128
    distance = (mini.features(large)[0] - mini.features(scenes[:2])[0]).norm(dim=1)
    assert (distance < 0.25 * mini.features(scenes[:2])[0].norm(dim=1)).all()


class Images(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def test_torch_fidelitys_own_api_knows_it_by_name_and_reads_the_same_features(mini, scenes):
    half = {"kid_subset_size": 8, "kid_subsets": 3, "isc_splits": 2, "verbose": False}
    found = torch_fidelity.calculate_metrics(
        input1=Images(scenes[:12]),
        input2=Images(scenes[12:]),
        feature_extractor="mini-vit",
        batch_size=6,
        cuda=False,
        fid=True,
        isc=True,
        kid=True,
        cache=False,
        **half,
    )
    (one, logits), (two, _) = mini.features(scenes[:12]), mini.features(scenes[12:])
    expected = {
        **isc_features_to_metric(logits, splits=2),
        **fid_statistics_to_metric(*map(fid_features_to_statistics, (one, two)), verbose=False),
        **kid_features_to_metric(one, two, kid_subsets=3, kid_subset_size=8, verbose=False),
    }
    assert set(found) == set(expected) and found["frechet_inception_distance"] > 0
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_inception_gives_what_torch_fidelitys_metrics_read(inception):
    network = inception.network
    assert isinstance(network, FeatureExtractorInceptionV3) and not network.training
    wanted = {network.get_default_feature_layer_for_metric(metric) for metric in ("fid", "kid", "isc")}
    assert set(network.features_list) == wanted
    images = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features, logits = inception.features(images)
    assert features.shape == (2, 2048) and logits.shape == (2, 1008)
    alone = inception.features(images[1:])
    assert torch.equal(features[1:], alone[0]) and torch.equal(logits[1:], alone[1])
    torch.testing.assert_close(logits, features @ network.fc.weight.T, atol=1e-5, rtol=1e-5)  # without its bias


def test_inceptions_weights_are_run_only_if_their_hash_is_the_known_one(hub):
    assert re.fullmatch("[0-9a-f]{64}", extractors.INCEPTION_SHA256)
    assert f"-{extractors.INCEPTION_SHA256[:8]}.pth" in URL_INCEPTION_V3
    hub.parent.mkdir()
    hub.write_bytes(b"another file")
    sentence = refusal(lambda: load_extractor("inception-v3-compat", CPU))
    assert hashlib.sha256(b"another file").hexdigest() in sentence and "delete it, and run again" in sentence
    assert missing_extractor("inception-v3-compat") == [sentence]


def test_inceptions_weights_that_cannot_be_fetched_are_missing_with_their_place(hub, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    (missing,) = missing_extractor("inception-v3-compat")
    for sentence in (missing, refusal(lambda: load_extractor("inception-v3-compat", CPU))):
        assert URL_INCEPTION_V3 in sentence and "no route to host" in sentence and f"put the file at {hub}" in sentence


def test_an_extractor_that_does_not_exist_is_told_those_that_do():
    for action in (lambda: load_extractor("vgg", CPU), lambda: extractor_digest("vgg")):
        assert refusal(action) == (
            f"There is no feature extractor 'vgg': set data.extractor to {' or '.join(EXTRACTORS)}."
        )
    assert missing_extractor("vgg") == [refusal(lambda: extractor_digest("vgg"))]


def test_the_miniature_is_here_and_each_extractor_has_a_hash_of_its_own(hub):
    assert missing_extractor("mini-vit") == [] and not hub.exists()
    digests = {extractor_digest(name) for name in EXTRACTORS}
    assert len(digests) == len(EXTRACTORS) and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 64, 64),
        *(torch.zeros(shape, dtype=torch.uint8) for shape in ((3, 64, 64), (2, 64, 64, 3), (0, 3, 64, 64))),
    ],
)
def test_what_is_no_batch_of_images_is_refused(mini, images):
    assert "takes (images, 3, height, width) of torch.uint8" in refusal(lambda: mini.features(images), DataError)
