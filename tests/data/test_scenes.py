"""Generated scenes: the truth they claim is the truth of their pixels."""

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cutaway.core.errors import UnknownNameError, UsageError
from cutaway.data.scenes import BACKGROUNDS, CLASSES, CONCEPTS, Bias, Scene, Scenes, scene
from cutaway.data.scenes_company import COMPANY
from cutaway.data.scenes_compose import caption
from cutaway.data.scenes_palette import FREE_COLOURS, TEXTURES, colour_names
from cutaway.data.scenes_render import render

SAMPLE = 24


@pytest.fixture(scope="module")
def sample() -> list[Scene]:
    return Scenes(SAMPLE, seed=5)[:]


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return Scenes(1200, seed=6, size=32)[:]


def near(mask: np.ndarray) -> np.ndarray:
    """The mask and every pixel that touches it."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    touched: np.ndarray = np.any([padded[r : r + height, c : c + width] for r, c in np.ndindex(3, 3)], axis=0)
    return touched


def chi_square(rows: list[int], columns: list[int]) -> tuple[float, int]:
    """Pearson's statistic of independence and its degrees of freedom."""
    table = np.zeros((max(rows) + 1, max(columns) + 1))
    np.add.at(table, (rows, columns), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    return float(((table - expected) ** 2 / expected).sum()), (table.shape[0] - 1) * (table.shape[1] - 1)


def test_a_scene_is_the_same_to_the_bit_whenever_and_wherever_it_is_drawn(sample: list[Scene]) -> None:
    np.random.seed(3)  # a scene must not look at the global state
    for k in reversed(range(0, SAMPLE, 5)):
        again = scene(k, seed=5)
        assert np.array_equal(again.image, sample[k].image)
        assert again.caption == sample[k].caption
        assert again.masks.keys() == sample[k].masks.keys()
        assert all(np.array_equal(mask, sample[k].masks[name]) for name, mask in again.masks.items())
    assert np.array_equal(pickle.loads(pickle.dumps(sample[1])).image, sample[1].image)
    assert not np.array_equal(scene(0, seed=7).image, sample[0].image)


def visible_share(one: Scene, name: str) -> np.ndarray:
    """How much a pixel depends on the paint of a concept: its surfaces in white less the same in black."""
    images = []
    for paint in (0.0, 1.0):
        pieces = tuple(
            replace(piece, tones=np.full((2, 3), paint)) if name in (piece.part, piece.thing) else piece
            for piece in one.composition.pieces
        )
        images.append(render(replace(one.composition, pieces=pieces), len(one.image)).image.astype(float))
    share: np.ndarray = (images[1] - images[0]).mean(-1) / 255
    return share


def test_repainting_a_part_changes_exactly_the_pixels_of_its_mask(sample: list[Scene]) -> None:
    for one in sample:
        for name in dict.fromkeys(n for piece in one.composition.pieces for n in (piece.part, piece.thing)):
            if name not in one.masks:
                continue
            share, mask = visible_share(one, name), one.masks[name]
            # the topmost surface covers half a pixel or more, a later one less than half of what it covers
            assert share[mask].min() > 0.25 * 0.7, f"{name}: a pixel of the mask is not of the part"
            assert share[mask].mean() > 0.7
            missed = (share > 0.55) & ~mask
            assert missed.sum() <= 3, f"{name}: {missed.sum()} pixels of the part are not in the mask"
            assert share[~near(mask)].max(initial=0) < 0.55


def test_masks_divide_the_picture_without_gap_or_overlap(sample: list[Scene]) -> None:
    for one in sample:
        parts = [one.masks[name] for name in CONCEPTS["part"] if name in one.masks]
        things = [one.masks[name] for name in CONCEPTS["object"] if name in one.masks]
        regions = [one.masks[name] for name in CONCEPTS["region"] if name in one.masks]
        assert np.array_equal(one.object_mask, one.masks[one.name])
        assert (np.sum(parts, 0) <= one.object_mask).all()
        assert np.sum(parts, 0).sum() >= one.object_mask.sum() - 24  # slivers below the visible size
        assert np.sum(things, 0).max() == 1
        assert np.sum([*regions, *things], 0).max() == 1
        assert (np.sum([*regions, *things], 0) == 0).sum() <= 24
        assert np.array_equal(one.masks[one.background], one.rendering.owner < 0)


def test_every_mask_has_a_known_name_and_every_name_occurs(many: list[Scene]) -> None:
    names = list(itertools.chain(*CONCEPTS.values()))
    assert len(names) == len(set(names))
    seen = set().union(*(scene(k, seed=9).masks for k in range(160)))
    assert seen == set(names)


def test_colour_masks_hold_pixels_of_that_colour(sample: list[Scene]) -> None:
    hues = {
        "orange": (13, 50),
        "yellow": (38, 68),
        "green": (64, 167),
        "blue": (163, 258),
        "purple": (254, 302),
    }
    for one in sample:
        hue = np.asarray(Image.fromarray(one.image).convert("HSV"), float)[..., 0] * 360 / 255
        for name, (low, high) in hues.items():
            if name in one.masks:
                inside = (hue[one.masks[name]] >= low) & (hue[one.masks[name]] <= high)
                assert inside.mean() > 0.95, (one.index, name, inside.mean())
        grey = one.image.max(-1).astype(int) - one.image.min(-1)
        for name in {"white", "grey"} & one.masks.keys():
            assert grey[one.masks[name]].max() <= 45, name
    flat = np.array([[[216, 62, 58], [240, 138, 44], [140, 93, 58], [240, 136, 178], [20, 20, 24]]], np.uint8)
    assert [CONCEPTS["colour"][k] for k in colour_names(flat)[0]] == [
        "red",
        "orange",
        "brown",
        "pink",
        "black",
    ]


def test_the_object_wears_the_colour_it_is_said_to_wear(sample: list[Scene]) -> None:
    for one in sample:
        main = next(p.part for p in one.composition.pieces if p.main and p.colour == one.colour)
        share = (one.masks[one.colour] & one.masks[main]).sum() / one.masks[main].sum()
        assert share > 0.4, (one.index, one.caption, share)


def test_colour_texture_and_background_say_nothing_about_the_class(many: list[Scene]) -> None:
    truth = [one.truth for one in many]
    for values in (
        [BACKGROUNDS.index(one.background) for one in many],
        [FREE_COLOURS.index(one.colour) for one in many],
        [("", *TEXTURES).index(one.texture) for one in many],
    ):
        statistic, freedom = chi_square(truth, values)
        # normal approximation of the chi-square distribution, three standard deviations (p about 0.001)
        assert statistic < freedom + 3 * np.sqrt(2 * freedom)
    assert min(np.bincount(truth, minlength=len(CLASSES))) > 1200 / 8 - 4 * np.sqrt(1200 / 8)


def test_a_planted_bias_has_the_strength_asked_for_and_moves_nothing_else(many: list[Scene]) -> None:
    bias = Bias({"bird": "winter", "fish": "night"}, strength=0.85)
    biased = Scenes(1200, seed=6, size=32, bias=bias)[:]
    for name, place in bias.backgrounds.items():
        own = [one.background == place for one in biased if one.name == name]
        assert abs(np.mean(own) - 0.85) < 4 * np.sqrt(0.85 * 0.15 / len(own))
    others = [one.background in ("winter", "night") for one in biased if one.name not in bias.backgrounds]
    assert abs(np.mean(others) - 0.15) < 4 * np.sqrt(0.85 * 0.15 / len(others))
    assert [one.truth for one in biased] == [one.truth for one in many]
    assert all(
        np.array_equal(a.object_mask, b.object_mask) for a, b in zip(biased[:99], many[:99], strict=True)
    )


def test_label_errors_are_as_many_as_asked_and_the_truth_is_kept(many: list[Scene]) -> None:
    wrong = Scenes(1200, seed=6, size=32, label_errors=0.2)[:]
    share = np.mean([one.label != one.truth for one in wrong])
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 1200)
    assert all(
        a.truth == b.truth and np.array_equal(a.image, b.image) for a, b in zip(wrong, many, strict=True)
    )
    assert all(one.label == one.truth for one in many)
    assert {one.label for one in wrong if one.label != one.truth} == set(range(len(CLASSES)))


def test_the_same_object_can_be_put_in_another_place() -> None:
    for k in range(6):
        here, there = scene(k, background="meadow"), scene(k, background="desert")
        inside = ~near(~here.object_mask)
        assert np.array_equal(here.object_mask, there.object_mask)
        # the ground shines through the seams between two parts, nowhere else
        assert (here.image[inside] == there.image[inside]).all(-1).mean() > 0.97
        assert (here.image[here.masks["meadow"]] != there.image[here.masks["meadow"]]).any(-1).mean() > 0.9


def test_captions_name_what_is_there_and_nothing_else(sample: list[Scene]) -> None:
    for one in sample:
        words = one.caption.lower().rstrip(".").split()
        place = {"winter": "snow"}.get(one.background, one.background)
        assert {one.name, one.colour, place} <= set(words)
        texture = {"wood": "wooden"}.get(one.texture, one.texture)
        assert not texture or texture in words
        named = {word for word in words if word in COMPANY}
        present = {word for word in COMPANY if word in one.masks}
        assert named == present, one.caption
        if "with" in words:
            phrase = [w for w in words[words.index("with") + 1 :] if w not in ("a", "an")]
            part = {"centre": "flower centre", "fins": "tail fin"}.get(phrase[1], phrase[1])
            pixels = one.masks[part] & one.masks[phrase[0]]
            assert pixels.sum() > 0.3 * one.masks[part].sum(), one.caption


def test_a_caption_is_silent_about_what_cannot_be_seen(sample: list[Scene]) -> None:
    company = [one for one in sample if any(name in one.masks for name in COMPANY)]
    assert len(company) > SAMPLE // 2
    for one in company:
        words = set(caption(one.composition, {one.name}).lower().rstrip(".").split())
        assert not words & {*COMPANY, "with", "beside", "under"}, words


def test_what_cannot_be_drawn_is_refused_by_name() -> None:
    with pytest.raises(UnknownNameError, match="house"):
        Bias({"hose": "winter"})
    with pytest.raises(UnknownNameError, match="winter"):
        Bias({"house": "wintr"})
    with pytest.raises(UsageError, match=r"1\.5"):
        Bias({"house": "winter"}, strength=1.5)
    with pytest.raises(UsageError, match="size=8"):
        scene(0, size=8)
    with pytest.raises(UsageError, match="label_errors=-1"):
        scene(0, label_errors=-1)
    with pytest.raises(UnknownNameError, match="class"):
        scene(0, label=8)
    with pytest.raises(IndexError):
        Scenes(3)[3]
