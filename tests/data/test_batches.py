"""Batches of many pictures: the bits of one at a time, in order, and damaged files are told."""

import itertools
import pickle
import random
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cutaway.core.errors import InputError, UsageError
from cutaway.core.image import Photo
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.data.batches import Unread, batches
from cutaway.data.folder import Pictures
from cutaway.data.scene_pictures import ScenePictures
from cutaway.data.scenes import Scenes

COUNT = 23


def network(preprocess: Preprocess, dtype: torch.dtype = torch.float32) -> VisionModel:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(preprocess.pixel_channels, 2))
    return VisionModel(net.to(dtype), preprocess, name="mean")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of many sizes and kinds: JPEG, PNG, grey, palette, 16-bit, transparent, turned."""
    place = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(0)
    for k in range(COUNT):
        height, width = (int(n) for n in chance.integers(40, 90, 2))
        rgb = Image.fromarray(chance.integers(0, 256, (height, width, 3), np.uint8))
        kinds = {
            0: rgb,
            1: rgb.convert("L"),
            2: rgb.convert("P"),
            3: Image.fromarray(chance.integers(0, 65536, (height, width), np.uint16)),
            4: rgb.convert("RGBA"),
        }
        if k % 6 == 5:
            exif = Image.Exif()
            exif[0x0112] = 6
            rgb.save(place / f"{k}.jpg", exif=exif)
        else:
            kinds[k % 6].save(place / f"{k}.png")
    return place


PREPROCESSES = {
    "resized and cropped": Preprocess(resize=36, crop=32, mean=(0.4,), std=(0.2,)),
    "warped": Preprocess(resize=(24, 40), interpolation="bicubic", channels="BGR"),
    "grey": Preprocess(resize=28, crop=28, channels="L"),
    "own sizes": Preprocess(),
}


@pytest.mark.parametrize("name", PREPROCESSES)
@pytest.mark.parametrize("workers", [0, 3])
def test_pixels_are_those_of_the_model_bit_for_bit_and_in_order(
    folder: Path, name: str, workers: int
) -> None:
    model, pictures = network(PREPROCESSES[name]), Pictures(folder)
    numbers = [*range(5, COUNT), 0, 4, 4]
    got = list(batches(model, pictures, numbers, 4, workers=workers))
    assert [k for batch in got for k in batch.ids.tolist()] == numbers
    for batch in got:
        assert (batch.labels == -1).all()
        for k, pixels, size in zip(batch.ids.tolist(), batch.pixels, batch.sizes.tolist(), strict=True):
            assert torch.equal(pixels[None], model.pixels(pictures.path(k)))
            assert tuple(size) == pictures.photo(k).size


def test_pixels_have_the_type_of_the_network(folder: Path) -> None:
    model, pictures = network(PREPROCESSES["warped"], torch.float64), Pictures(folder)
    (batch,) = batches(model, pictures, [3], 4)
    assert batch.pixels.dtype == torch.float64
    assert torch.equal(batch.pixels, model.pixels(pictures.path(3)))


def test_batches_are_cut_from_the_numbers_and_where_sizes_change(tmp_path: Path) -> None:
    for k in range(7):
        Image.new("RGB", (8, 8 if k < 3 else 9)).save(tmp_path / f"{k}.png")
    (tmp_path / "1.png").write_bytes(b"")
    pictures, unread = Pictures(tmp_path, labels={f"{k}.png": 10 * k for k in range(5)}), list[Unread]()
    got = list(batches(network(Preprocess()), pictures, range(7), 4, unread=unread))
    assert [b.ids.tolist() for b in got] == [[0, 2], [3], [4, 5, 6]]
    assert [b.labels.tolist() for b in got] == [[0, 20], [30], [40, -1, -1]]
    assert [(u.number, u.name) for u in unread] == [(1, "1.png")]


def claiming(png: bytes, width: int, height: int) -> bytes:
    """The PNG with another size in its header."""
    head = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + head + struct.pack(">I", zlib.crc32(head)) + png[33:]


def damaged(place: Path) -> dict[str, str]:
    """Ways a picture file can be broken, and a word of what is said."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(place / "a.jpg")
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(place / "b.png")
    jpeg, png = (place / "a.jpg").read_bytes(), (place / "b.png").read_bytes()
    (place / "c.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (place / "d.png").write_bytes(png[: len(png) // 2])
    (place / "e.png").write_bytes(png[:400] + bytes(200) + png[600:])
    (place / "f.jpg").write_bytes(b"")
    (place / "g.jpg").write_text("not a picture at all")
    (place / "h.png").write_bytes(png[:20])
    (place / "i.png").write_bytes(claiming(png, 30_000, 30_000))
    (place / "k.png").write_bytes(claiming(png, 11_000, 10_000))
    Image.new("RGB", (64, 16)).save(place / "j.png")
    return {
        "c.jpg": "damaged", "d.png": "damaged", "e.png": "damaged", "f.jpg": "empty", "g.jpg": "not a picture",
        "h.png": "", "i.png": "megapixels", "j.png": "smaller than the crop", "k.png": "110 megapixels",
    }  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_files_are_told_and_left_out(tmp_path: Path, workers: int) -> None:
    broken = damaged(tmp_path)
    pictures, unread = Pictures(tmp_path), list[Unread]()
    model = network(Preprocess(crop=32))
    got = list(batches(model, pictures, range(len(pictures)), 3, workers=workers, unread=unread))
    assert [pictures.names[k] for b in got for k in b.ids.tolist()] == ["a.jpg", "b.png"]
    assert [u.name for u in unread] == list(broken)
    assert [pictures.names[u.number] for u in unread] == list(broken)
    for u in unread:
        assert broken[u.name] in u.reason
    with pytest.raises(InputError, match="damaged"):
        list(batches(model, pictures, range(len(pictures)), 3, workers=workers))


class Counted:
    """Pictures that count how far ahead they are read, and how many at once."""

    names = tuple(str(k) for k in range(500))
    labels = None

    def __init__(self) -> None:
        self.started = 0
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.both = threading.Barrier(2, timeout=20)

    def __len__(self) -> int:
        return len(self.names)

    def photo(self, number: int) -> Photo:
        with self.lock:
            self.started += 1
            self.now += 1
            self.most = max(self.most, self.now)
        if number < 2:
            self.both.wait()  # passes only when two pictures are read at once
        with self.lock:
            self.now -= 1
        return Photo("x", (Image.new("RGB", (4, 4), (number % 256, 0, 0)),))

    def fingerprint(self, numbers: object = None) -> str:
        return ""


def test_reading_ahead_is_bounded_and_ends_with_the_reader() -> None:
    pictures = Counted()
    stream = batches(network(Preprocess()), pictures, range(500), 5, workers=2)
    for batch in itertools.islice(stream, 10):
        assert pictures.started <= int(batch.ids[-1]) + 1 + 5 + 2
    assert pictures.most == 2
    before = {t.name for t in threading.enumerate()}
    stream.close()  # type: ignore[attr-defined]
    after = {t.name for t in threading.enumerate()}
    assert any(name.startswith("pictures") for name in before)
    assert not any(name.startswith("pictures") for name in after)
    assert pictures.started < 100


def test_a_fault_of_ours_is_not_taken_for_a_damaged_file() -> None:
    class Faulty(Counted):
        def photo(self, number: int) -> Photo:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(batches(network(Preprocess()), Faulty(), range(3), 2, unread=[]))


@pytest.mark.parametrize(
    ("numbers", "size", "workers"),
    [([0, COUNT], 2, 1), ([-1], 2, 1), ([0], 0, 1), ([0], 2, -1), ([0], 2, 1000)],
)
def test_wrong_calls_are_refused_at_once(folder: Path, numbers: list[int], size: int, workers: int) -> None:
    with pytest.raises(UsageError):
        batches(network(Preprocess()), Pictures(folder), numbers, size, workers=workers)


def test_scenes_are_pictures_too() -> None:
    pictures = ScenePictures(Scenes(9, seed=3, label_errors=0.5))
    model = network(Preprocess(resize=40, crop=32))
    got = list(batches(model, pictures, range(9), 4))
    scenes = pictures.scenes
    assert torch.cat([b.labels for b in got]).tolist() == [s.label for s in scenes]
    assert torch.equal(torch.cat([b.pixels for b in got]), torch.cat([model.pixels(s.image) for s in scenes]))
    assert pictures.fingerprint(range(4)) == ScenePictures(Scenes(4, seed=3, label_errors=0.5)).fingerprint()
    prints = {ScenePictures(Scenes(4, **k)).fingerprint() for k in ({"seed": 3}, {"seed": 4}, {"size": 64})}
    assert len(prints | {pictures.fingerprint()}) == 4
    with pytest.raises(UsageError):
        pictures.photo(9)


def test_pictures_travel_to_other_processes(folder: Path) -> None:
    pictures = Pictures(folder, labels={"3.png": 1})
    other = pickle.loads(pickle.dumps(pictures))
    assert (other.names, other.labels.tolist(), other.root) == (
        pictures.names,
        pictures.labels.tolist(),
        pictures.root,
    )


def test_real_photographs_have_the_bits_of_the_model(data_folder: Path) -> None:
    model = network(Preprocess(resize=256, crop=224))
    pictures = Pictures(data_folder / "imagenet_samples")
    numbers = random.Random(0).sample(range(len(pictures)), 24)
    for batch in batches(model, pictures, numbers, 7):
        for k, pixels in zip(batch.ids.tolist(), batch.pixels, strict=True):
            assert torch.equal(pixels[None], model.pixels(pictures.path(k)))
