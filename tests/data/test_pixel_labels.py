"""Masks of concepts go through the picture's own geometry, and say what nobody labelled."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cutaway.core.errors import InputError, UnknownNameError, UsageError
from cutaway.core.image import Photo
from cutaway.core.preprocess import Preprocess
from cutaway.data.folder import Pictures
from cutaway.data.pixel_labels import JoinedLabels, LabelMaps, SceneLabels, WholeLabels, into_frame
from cutaway.data.scene_pictures import ScenePictures
from cutaway.data.scenes import CONCEPTS, Scenes

from .test_batches import claiming

FRAMES = [
    Preprocess(),
    Preprocess(crop=32),
    Preprocess(resize=40, crop=32),
    Preprocess(resize=33, crop=(20, 31)),
    Preprocess(resize=(50, 23)),
    Preprocess(resize=97),
    Preprocess(resize=120, crop=101),
]
SIZES = [(48, 64), (64, 48), (51, 51), (45, 73), (90, 33)]
NAMES = ["sky", "road", "car", "void"]


def planted(folder: Path, sizes: list[tuple[int, int]], kind: str = "L") -> None:
    """Black pictures with a red and a green rectangle, and maps that say 1 and 2 there, 3 in a corner."""
    chance = np.random.default_rng(1)
    for place in ("images/deep", "maps/deep"):
        (folder / place).mkdir(parents=True)
    for k, (height, width) in enumerate(sizes):
        rgb, labels = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        for colour, label in ((0, 1), (1, 2)):
            top, left = int(chance.integers(0, height // 3)), int(chance.integers(0, width // 3))
            where = (
                slice(top, top + height // 3),
                slice(left + colour * width // 3, left + (colour + 1) * width // 3),
            )
            rgb[where], labels[where] = np.eye(3, dtype=np.uint8)[colour] * 255, label
        labels[-3:, -3:] = 3
        Image.fromarray(rgb).save(folder / "images" / "deep" / f"{k}.png")
        image = Image.fromarray(labels)
        if kind == "P":
            image = Image.frombytes("P", image.size, labels.tobytes())
            image.putpalette([200, 0, 0, 0, 200, 0, 9, 9, 9, 0, 0, 0] + [0] * 756)
        elif kind == "I;16":
            image = Image.fromarray(labels.astype(np.uint16))
        image.save(folder / "maps" / "deep" / f"{k}.png")


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("preprocess", FRAMES, ids=lambda p: f"{p.resize}-{p.crop}")
def test_labels_move_as_nearest_neighbour_resizing_moves_pixels(
    preprocess: Preprocess, size: tuple[int, int]
) -> None:
    """Pictures of their own row and column numbers, through the preprocessing itself with the filter NEAREST."""
    numbers = np.indices(size, np.uint8)
    nearest = replace(preprocess, interpolation="nearest", channels="L", mean=(0.0,), std=(1.0,))
    photo = Photo("numbers", tuple(Image.fromarray(n) for n in numbers))
    wanted = (nearest.fit(photo)[:, 0] * 255).round().byte().numpy()
    found = into_frame(numbers, preprocess)
    assert found.shape == wanted.shape
    whole = replace(nearest, crop=None).fit(photo).shape[-2:]
    for axis, (there, here) in enumerate(zip(size, whole, strict=True)):
        start = round((here - found.shape[axis + 1]) / 2)
        centre = (2 * (start + np.arange(found.shape[axis + 1])) + 1) * there  # in units of 1 / (2 here)
        tie = centre % (2 * here) == 0  # the centre lies on an edge: Pillow's rounding decides, ours does not
        differs = (found[axis] != wanted[axis]).any(1 - axis)
        assert not differs[~tie].any()
        # also on ties no centre lies outside the pixel it is given
        line = found[axis].max(1 - axis).astype(int)
        assert (np.abs(centre - here * (2 * line + 1)) <= here).all()


@pytest.mark.parametrize("kind", ["L", "P", "I;16"])
def test_a_mask_lies_where_its_colour_lies(tmp_path: Path, kind: str) -> None:
    planted(tmp_path, SIZES, kind)
    pictures = Pictures(tmp_path / "images")
    maps = LabelMaps(pictures, tmp_path / "maps", NAMES, unlabelled=3)
    assert (maps.names, len(maps)) == (("sky", "road", "car"), len(SIZES))
    for preprocess in FRAMES[1:]:
        if preprocess.resize is None and preprocess.crop is None:
            continue
        for k in range(len(pictures)):
            pixels = preprocess.fit(pictures.photo(k))[0]
            said = maps.annotation(k, preprocess)
            assert said.masks.dtype == torch.bool
            assert said.masks.shape[1:] == pixels.shape[1:]
            assert said.categories == {"object"}
            masks = dict(zip(said.labels.tolist(), said.masks, strict=True))
            for label, colour in ((1, 0), (2, 1)):
                # where the filter blends, either may be right: half of the colour decides, a rim is left out
                clear = (pixels[colour] < 0.2) | (pixels[colour] > 0.8)
                mask = masks.get(label, torch.zeros(1).bool()).expand(pixels.shape[1:])
                assert torch.equal(mask[clear], (pixels[colour] > 0.5)[clear]), (preprocess, k)
                assert clear.float().mean() > 0.7
            assert int(sum(m.sum() for m in masks.values())) <= masks[1].numel()


def test_unlabelled_pixels_belong_to_nothing(tmp_path: Path) -> None:
    planted(tmp_path, [(48, 64)])
    pictures = Pictures(tmp_path / "images")
    said = LabelMaps(pictures, tmp_path / "maps", NAMES, unlabelled=(3, 255)).annotation(0, Preprocess())
    assert said.labels.tolist() == [0, 1, 2]
    assert int(said.masks.sum()) == 48 * 64 - 9
    assert not said.masks[:, -3:, -3:].any()


def test_a_picture_without_a_map_is_annotated_in_nothing(tmp_path: Path) -> None:
    planted(tmp_path, [(48, 64), (40, 40)])
    (tmp_path / "maps" / "deep" / "1.png").unlink()
    pictures = Pictures(tmp_path)  # the maps are pictures as well, and have themselves as maps
    maps = LabelMaps(Pictures(tmp_path / "images"), tmp_path / "maps", NAMES)
    said = maps.annotation(1, Preprocess(resize=20, crop=16))
    assert (said.labels.tolist(), tuple(said.masks.shape), said.categories) == ([], (0, 16, 16), frozenset())
    assert len(LabelMaps(pictures, tmp_path / "maps", NAMES)) == 2


def test_the_longest_common_path_chooses_the_map(tmp_path: Path) -> None:
    for k, place in enumerate(("p/a/1.jpg", "p/b/1.jpg", "m/1.png", "m/b/1.png")):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), k - 2 if k > 1 else 0).save(tmp_path / place)
    maps = LabelMaps(Pictures(tmp_path / "p"), tmp_path / "m", NAMES)
    assert [maps.annotation(k, Preprocess()).labels.tolist() for k in (0, 1)] == [[0], [1]]


def test_categories_are_of_each_label(tmp_path: Path) -> None:
    planted(tmp_path, [(48, 64)])
    pictures = Pictures(tmp_path / "images")
    of = {"sky": "region", "road": "region", "Car": "object", "void": "object"}
    maps = LabelMaps(pictures, tmp_path / "maps", NAMES, categories=of)
    assert maps.categories == ("region", "region", "object", "object")
    assert maps.annotation(0, Preprocess()).categories == {"region", "object"}
    with pytest.raises(UnknownNameError, match="lorry"):
        LabelMaps(pictures, tmp_path / "maps", NAMES, categories={**of, "lorry": "object"})
    with pytest.raises(UsageError, match="no category for void"):
        LabelMaps(pictures, tmp_path / "maps", NAMES, categories=dict.fromkeys(NAMES[:3], "x"))


def test_bad_maps_are_told(tmp_path: Path) -> None:
    planted(tmp_path, [(48, 64)])
    pictures, file = Pictures(tmp_path / "images"), tmp_path / "maps" / "deep" / "0.png"
    maps = LabelMaps(pictures, tmp_path / "maps", NAMES)
    with pytest.raises(InputError, match=r"holds the label 3\. .*unlabelled=3"):
        LabelMaps(pictures, tmp_path / "maps", NAMES[:3]).annotation(0, Preprocess())
    with pytest.raises(InputError, match="smaller than the crop 50x50"):
        maps.annotation(0, Preprocess(crop=50))
    Image.new("L", (64, 47)).save(file)
    with pytest.raises(InputError, match=r"labels 47x64 pixels, but deep/0\.png has 48x64"):
        maps.annotation(0, Preprocess())
    for side in (11_000, 30_000):
        file.write_bytes(claiming(file.read_bytes(), side, side))
        with pytest.raises(InputError, match="labels 11000x11000 pixels|cannot be read"):
            maps.annotation(0, Preprocess())
    Image.new("RGB", (64, 48)).save(file)
    with pytest.raises(InputError, match="holds colours"):
        maps.annotation(0, Preprocess())
    file.write_text("text")
    with pytest.raises(InputError, match="cannot be read"):
        maps.annotation(0, Preprocess())
    file.unlink()
    with pytest.raises(InputError, match="none of the 1 pictures"):
        LabelMaps(pictures, tmp_path / "maps", NAMES)
    Image.new("L", (64, 48)).save(tmp_path / "maps" / "7.png")
    with pytest.raises(InputError, match=r"has a label map .*deep/0\.png"):
        LabelMaps(pictures, tmp_path / "maps", NAMES)


def test_a_turned_photograph_wants_labels_of_its_upright_size(tmp_path: Path) -> None:
    for place in ("p", "m"):
        (tmp_path / place).mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "p" / "1.jpg", exif=exif)
    Image.new("L", (48, 64)).save(tmp_path / "m" / "1.png")
    maps = LabelMaps(Pictures(tmp_path / "p"), tmp_path / "m", NAMES)
    assert maps.annotation(0, Preprocess()).masks.shape == (1, 64, 48)


def test_whole_pictures_are_one_concept(tmp_path: Path) -> None:
    for name in ("woven/1.png", "dotted/2.png", "dotted/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    whole = WholeLabels(Pictures(tmp_path, labels="folder"))
    assert (whole.names, whole.categories) == (("dotted", "woven"), ("texture", "texture"))
    said = whole.annotation(2, Preprocess(resize=20, crop=16))
    assert (said.labels.tolist(), said.categories) == ([1], {"texture"})
    assert said.masks.shape == (1, 16, 16)
    assert bool(said.masks.all())
    some = WholeLabels(Pictures(tmp_path, labels={"1.png": "woven"}))
    assert some.annotation(0, Preprocess()).categories == frozenset()
    with pytest.raises(UsageError, match="without named classes"):
        WholeLabels(Pictures(tmp_path))


def test_scenes_say_everything_about_themselves() -> None:
    labels = SceneLabels(ScenePictures(Scenes(6, seed=2)))
    assert len(set(labels.names)) == len(labels.names) == sum(map(len, CONCEPTS.values()))
    for k in range(6):
        masks = labels.scenes[k].masks
        said = labels.annotation(k, Preprocess())
        assert said.categories == set(CONCEPTS)
        assert {labels.names[i] for i in said.labels.tolist()} == set(masks)
        for i, mask in zip(said.labels.tolist(), said.masks, strict=True):
            assert np.array_equal(mask.numpy(), masks[labels.names[i]])
            assert labels.names[i] in CONCEPTS[labels.categories[i]]
        small = labels.annotation(k, Preprocess(resize=64, crop=24))
        assert bool(small.masks.any((1, 2)).all())
        assert int(small.masks.sum(0).max()) > 1  # a pixel has a colour and a thing


def test_joined_labels_say_what_each_part_says(tmp_path: Path) -> None:
    planted(tmp_path, [(48, 64), (40, 40)])
    (tmp_path / "maps" / "deep" / "1.png").unlink()
    pictures = Pictures(tmp_path / "images", labels={"1.png": "sky"})
    maps = LabelMaps(pictures, tmp_path / "maps", NAMES)
    joined = JoinedLabels(maps, WholeLabels(pictures), LabelMaps(pictures, tmp_path / "maps", NAMES[::-1]))
    assert joined.names == (*NAMES, "sky")
    assert joined.categories == ("object",) * 4 + ("texture",)
    preprocess = Preprocess(resize=32, crop=30)
    first, second = (joined.annotation(k, preprocess) for k in (0, 1))
    own = maps.annotation(0, preprocess)
    turned = {3 - label: mask for label, mask in zip(own.labels.tolist(), own.masks, strict=True)}
    assert first.categories == {"object"}
    for label, mask in zip(first.labels.tolist(), first.masks, strict=True):
        straight = dict(zip(own.labels.tolist(), own.masks, strict=True)).get(label, torch.zeros_like(mask))
        assert torch.equal(mask, straight | turned.get(label, torch.zeros_like(mask)))
    assert (second.labels.tolist(), second.categories) == ([4], {"texture"})
    with pytest.raises(UsageError):
        JoinedLabels()


def test_camvid_is_labelled_in_the_frame_of_the_network(data_folder: Path) -> None:
    camvid = data_folder / "camvid"
    pictures = Pictures(camvid / "images")
    maps = LabelMaps(pictures, camvid / "labels", camvid / "classes.json", unlabelled=11)
    assert len(maps) == len(pictures) == 123
    assert maps.names == tuple(json.loads((camvid / "classes.json").read_text())[:11])
    preprocess = Preprocess(resize=256, crop=224)
    said = maps.annotation(5, preprocess, (360, 480))
    pixels = preprocess.fit(pictures.photo(5))[0]
    bright = {
        maps.names[k]: float(pixels[:, m].mean())
        for k, m in zip(said.labels.tolist(), said.masks, strict=True)
    }
    assert bright["sky"] == max(bright[name] for name in ("sky", "road", "building", "tree", "car"))
