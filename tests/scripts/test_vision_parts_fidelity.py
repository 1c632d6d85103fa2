"""The parts of the vision recipes do what they say, against values worked out by hand or written anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from attention_chains.data.digit_scenes import COLOURS, DIGITS


@pytest.fixture(scope="module")
def canvas(scripts, tmp_path_factory):
    from minis.canvas import load_canvas

    return load_canvas(tmp_path_factory.mktemp("canvas") / "backgrounds.safetensors", 3, 0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_canvas_holds_the_training_glyphs_and_no_held_out_one(canvas):
    labels = load_digits().target
    assert np.array_equal(canvas.labels.numpy(), labels[np.arange(len(labels)) % 6 != 0])
    assert len(canvas.glyphs) == 1497


def test_a_painting_is_ink_over_a_dimmed_background_by_its_opacity(canvas):
    picks = torch.arange(32)
    scene = canvas.paint(picks, generator())
    assert scene.images.shape == (32, 3, 64, 64) and scene.images.min() >= 0 and scene.images.max() <= 255
    inks = torch.tensor(list(COLOURS.values())).float()[scene.colours]
    for image, alpha, ink in zip(scene.images, scene.alpha, inks, strict=True):
        assert (image[:, alpha == 1] - ink[:, None]).abs().max() <= 12.001
        behind = torch.cat([canvas.backgrounds, canvas.backgrounds.flip(-1)]).float() * 0.75 + 30
        assert ((behind - image)[:, :, alpha == 0].abs().amax((1, 2)) < 1e-3).any()


def test_a_glyph_stays_in_the_frame_and_moves_about(canvas):
    alpha = canvas.paint(torch.zeros(64, dtype=torch.long), generator()).alpha
    assert ((alpha > 0.5).flatten(1).sum(1) > 60).all()
    assert len({tuple(part.argmax().view(1).tolist()) for part in alpha}) > 32


def test_without_spread_and_relief_nothing_but_the_colours_varies(canvas):
    scene = canvas.paint(torch.full((8,), 5), generator(), relief=0.0, spread=0.0)
    assert torch.equal(scene.alpha, scene.alpha[:1].expand(8, -1, -1))
    bare = scene.images[:, :, scene.alpha[0] == 0]
    assert (bare - bare.mean(-1, keepdim=True)).abs().max() < 1e-3


def test_paintings_depend_on_the_generator_alone(canvas):
    first, again, other = (canvas.paint(torch.arange(4), generator(seed)).images for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@given(rows=st.integers(2, 40), columns=st.integers(2, 20), seed=st.integers(0, 99))
def test_balanced_targets_sum_to_one_and_use_every_prototype(scripts, rows, columns, seed):
    from minis.dinov2 import balance

    scores = torch.rand(rows, columns, generator=generator(seed), dtype=torch.float64) * 2 - 1
    targets = balance(scores, 0.5, rounds=200)
    torch.testing.assert_close(targets.sum(1), torch.ones(rows, dtype=torch.float64))
    torch.testing.assert_close(
        targets.sum(0), torch.full((columns,), rows / columns, dtype=torch.float64), rtol=1e-3, atol=0
    )


@given(seed=st.integers(0, 99))
def test_koleo_is_the_mean_negative_log_distance_to_the_nearest_other(scripts, seed):
    from minis.dinov2 import koleo

    features = torch.randn(9, 5, generator=generator(seed), dtype=torch.float64)
    unit = features / features.norm(dim=1, keepdim=True)
    nearest = [min(math.dist(a, b) for j, b in enumerate(unit) if j != i) for i, a in enumerate(unit)]
    assert koleo(features).item() == pytest.approx(-sum(map(math.log, nearest)) / 9)


@given(seed=st.integers(0, 99))
def test_agreement_is_the_cross_entropy_of_sharpened_cosines(scripts, seed):
    from minis.distil import agreement

    student, raw = torch.randn(2, 6, 4, generator=generator(seed), dtype=torch.float64)
    expected = torch.nn.CrossEntropyLoss()(student / 0.1, raw.softmax(-1))
    torch.testing.assert_close(agreement(student, raw.softmax(-1)), expected)


def test_at_first_all_views_of_a_glyph_are_one_upright_cut_out(canvas):
    from minis.distil import draw_views

    views = draw_views(canvas, 0, 9, generator())
    assert views.student.shape == views.teacher.shape == (64, 3, 64, 64)
    upright = views.teacher[:32]
    for others in (views.teacher[32:], *views.student.chunk(2)):
        torch.testing.assert_close(others, upright)


def test_at_last_the_student_has_scenes_and_the_teacher_the_glyph_upright_and_in_its_place(canvas):
    from minis.distil import draw_views

    views = draw_views(canvas, 9, 9, generator())
    upright, placed = views.teacher.chunk(2)
    torch.testing.assert_close(upright, draw_views(canvas, 0, 9, generator()).teacher[:32])
    digit, bare = placed[:, 0] == placed[:, 0].max(), placed[:, 0] == placed[:, 0].min()
    for scene, on, off in zip(views.student[32:], digit, bare, strict=True):
        assert scene[:, on].std(1).max() < 1e-3 < scene[:, off].std(1).max()  # one ink where the cut-out is white
    shades = [len(view.flatten(1).unique(dim=1).T) for view in (views.student[40], views.teacher[40])]
    assert shades[0] > shades[1]


def test_the_teacher_speaks_of_the_first_half_as_a_whole_and_of_the_second_patch_by_patch(scripts):
    from minis.dinov2 import ARCHITECTURE, SIZES
    from minis.distil import Distillation
    from minis.vision import new_transformer

    model = Distillation(new_transformer(ARCHITECTURE, SIZES), 8).eval()
    pixels = torch.randn(4, 3, 64, 64, generator=generator())
    of_glyph, of_patches = model.teach(pixels)
    tokens = model.teacher.network.forward_features(pixels)
    torch.testing.assert_close(of_glyph, model.teacher.projector(tokens[:2, 0]))
    torch.testing.assert_close(of_patches, model.teacher.patch_projector(tokens[2:, 5:].reshape(128, 128)))


def test_the_teacher_follows_and_is_never_taught(scripts):
    from minis.dinov1 import ARCHITECTURE, SIZES
    from minis.distil import Distillation
    from minis.vision import new_transformer

    model = Distillation(new_transformer(ARCHITECTURE, SIZES), 8)
    student, teacher = (half.network.patch_embed.proj.weight for half in (model.student, model.teacher))
    before = teacher.clone()
    student.data += 1
    model.follow(0.9)
    torch.testing.assert_close(teacher, before + 0.1)
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_a_rise_begins_low_and_ends_high(scripts):
    from minis.distil import rising

    assert rising(0, 10, 0.9) == pytest.approx(0.9) and rising(5, 10, 0.9) == pytest.approx(0.95)
    assert rising(10, 10, 0.9) == rising(11, 10, 0.9) == 1


def test_half_of_the_images_hide_patches(scripts):
    from minis.distil import hide

    share = hide(2000, generator()).float().mean(1)
    assert abs((share == 0).float().mean() - 0.5) < 0.05
    assert share.max() < 0.8 and abs(share[share > 0].mean() - 0.3) < 0.02


def test_the_head_is_logistic_regression_on_frozen_features(canvas):
    from minis.distil import fit_head
    from minis.vision import IMAGENET, normalise

    def features(pixels):
        return torch.nn.functional.avg_pool2d(pixels, 8).flatten(1) * 3 + 7

    weight, bias = fit_head(features, canvas, 256, 0)
    assert weight.shape == (10, 192) and bias.shape == (10,)
    from minis.distil import FAR
    from minis.loop import step_generator

    random = step_generator(0, FAR)
    picks = canvas.draw(64, random)
    pixels = normalise(canvas.paint(picks, random).images, IMAGENET)
    fitted = ((features(pixels) @ weight.T + bias).argmax(1) == canvas.labels[picks]).float().mean()
    assert fitted > 0.6  # far above chance on what it was fitted to


def test_a_caption_agrees_with_an_image_unless_it_says_something_else(scripts):
    from minis.clip import Captions, open_clip_tokenizer

    captions = Captions()
    texts = open_clip_tokenizer(16).batch_decode(captions.tokens, skip_special_tokens=True)
    agree = captions.agree(torch.tensor([3]), torch.tensor([0]))[0]
    true = {text.replace(" ", "") for text, agrees in zip(texts, agree, strict=True) if agrees}
    assert true == {"aphotoofathree.", "aphotoofaredthree", "aphotoofarednumber"}
    assert len(texts) == len(DIGITS) * (1 + len(COLOURS)) + len(COLOURS)


def test_the_contrast_shares_each_row_and_column_among_what_is_true(scripts):
    from minis.clip import contrast

    similarity = torch.randn(4, 3, generator=generator(), dtype=torch.float64)
    agree = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 1]], dtype=torch.float64)
    rows = -(similarity.log_softmax(1) * agree / agree.sum(1)[:, None]).sum(1).mean()
    columns = -(similarity.log_softmax(0) * agree / agree.sum(0)).sum(0).mean()
    torch.testing.assert_close(contrast(similarity, agree), (rows + columns) / 2)


def test_the_open_clip_tokenizer_is_equal_each_time_and_knows_every_word_of_a_caption(scripts):
    from minis.tokenizers import WORDS, open_clip_tokenizer

    first, second = open_clip_tokenizer(16), open_clip_tokenizer(16)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    for word in WORDS:
        assert first.tokenize(word) == [f"{word}</w>"]
    assert first.tokenize("A photo of a three.") == ["a</w>", "photo</w>", "of</w>", "a</w>", "three</w>", ".</w>"]
    assert "".join(first.tokenize("tench")).replace("</w>", "") == "tench"


def test_the_mask_head_puts_each_patch_in_its_place(scripts):
    from minis.vision import MaskHead

    head = MaskHead(64)
    torch.nn.init.eye_(head.weight)
    torch.nn.init.zeros_(head.bias)
    image = torch.arange(64 * 64.0).view(64, 64)
    patches = torch.stack([image[r : r + 8, c : c + 8].flatten() for r in range(0, 64, 8) for c in range(0, 64, 8)])
    torch.testing.assert_close(head(patches[None])[0], image)
