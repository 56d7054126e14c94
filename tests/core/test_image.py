"""Pictures in every shape people own them, against values worked out by hand."""

import io
import os
import random
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cutaway.core.errors import InputError, UsageError
from cutaway.core.image import Photo, read

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (40, 40, 40)
# Row 0: red, green, blue; row 1: grey, grey, red. No two orientations of it are alike.
CARD = np.array([[RED, GREEN, BLUE], [GREY, GREY, RED]], dtype=np.uint8)


def as_uint8(photo: Photo) -> np.ndarray:
    """(N, H, W, 3) whole numbers of a photo whose pixels are multiples of 1/255."""
    pixels = photo.pixels() * 255
    assert torch.equal(pixels, pixels.round())
    return pixels.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def saved(tmp_path: Path, image: Image.Image, name: str, **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


# EXIF 2.32, table 6: where the stored row 0 and column 0 belong in the picture that is meant.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],  # mirrored left-right
    3: lambda a: a[::-1, ::-1],  # turned by 180
    4: lambda a: a[::-1],  # mirrored top-bottom
    5: lambda a: a.transpose(1, 0, 2),  # row 0 is the left side, column 0 the top
    6: lambda a: a.transpose(1, 0, 2)[::-1],  # row 0 is the right side, column 0 the top
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],  # row 0 is the right side, column 0 the bottom
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],  # row 0 is the left side, column 0 the bottom
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](CARD)))
    photo = read(saved(tmp_path, stored, "turned.png", exif=exif))
    assert photo.size == (2, 3)
    np.testing.assert_array_equal(as_uint8(photo)[0], CARD)
    assert bool(photo.notices) == (orientation != 1)


def test_unreadable_exif_is_said_and_the_picture_still_read() -> None:
    image = Image.fromarray(CARD)
    image.info["exif"] = b"Exif\0\0II*\0\xff\xff\xff\x7f garbage"
    np.testing.assert_array_equal(as_uint8(read(image))[0], CARD)


def test_grey_is_repeated_and_said(tmp_path: Path) -> None:
    values = np.array([[0, 128], [200, 255]], dtype=np.uint8)
    photo = read(saved(tmp_path, Image.fromarray(values), "grey.png"))
    np.testing.assert_array_equal(as_uint8(photo)[0], np.stack([values] * 3, -1))
    assert photo.notices == ("grey picture repeated in three channels",)


def test_a_grey_network_gets_luma() -> None:
    one = read(Image.fromarray(CARD), channels=1)
    # ITU-R 601: 76 = 0.299 * 255, 150 = 0.587 * 255, 29 = 0.114 * 255, rounded.
    np.testing.assert_array_equal((one.pixels()[0, 0] * 255).numpy(), [[76, 150, 29], [40, 40, 76]])
    real = read(torch.tensor([1.0, 0.5, 0.25]).view(3, 1, 1).expand(3, 4, 5), channels=1)
    assert real.pixels()[0, 0, 0, 0].item() == pytest.approx(0.299 + 0.587 / 2 + 0.114 / 4, abs=1e-6)


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256], [32768, 65278, 65535]], dtype=np.uint16)
    photo = read(saved(tmp_path, Image.fromarray(values), "deep.png"))
    np.testing.assert_allclose(photo.pixels()[0, 1].numpy(), values / 65535, rtol=1e-6)
    assert "16 bits" in photo.notices[0]
    np.testing.assert_allclose(read(values).pixels()[0, 1].numpy(), values / 65535, rtol=1e-6)
    assert read(torch.from_numpy(values)).pixels().max() == 1


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file written by hand (PNG specification, chapter 5)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bit_colour_is_said(tmp_path: Path) -> None:
    path = tmp_path / "deep_colour.png"
    path.write_bytes(png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 65535, 0, 32896, 0, 65535, 257)))
    photo = read(path)
    np.testing.assert_array_equal(as_uint8(photo)[0], [[[255, 0, 128], [0, 255, 1]]])
    assert photo.notices == ("16 bits a channel; Pillow reads colour at 8 bits",)


def test_palette_with_and_without_a_clear_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    np.testing.assert_array_equal(as_uint8(read(saved(tmp_path, image, "p.png")))[0, 0], [RED, BLUE])
    photo = read(saved(tmp_path, image, "clear.png", transparency=0))
    np.testing.assert_array_equal(as_uint8(photo)[0, 0], [(255, 255, 255), BLUE])
    assert photo.notices == ("transparency laid over white",)


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    values = np.array([[[100, 0, 200, 255], [100, 0, 200, 0], [100, 0, 200, 51]]], dtype=np.uint8)
    # Over white: c * a + 255 * (1 - a), with a = 51 / 255 = 0.2.
    expected = [[(100, 0, 200), (255, 255, 255), (224, 204, 244)]]
    channels_first = torch.from_numpy(values).permute(2, 0, 1)
    for source in (saved(tmp_path, Image.fromarray(values), "alpha.png"), values, channels_first):
        photo = read(source)
        np.testing.assert_array_equal(as_uint8(photo)[0], expected)
        assert "transparency laid over white" in photo.notices
    real = read(values.astype(np.float32) / 255).pixels()[0].permute(1, 2, 0) * 255
    np.testing.assert_allclose(real, expected, atol=1e-4)
    assert read(Image.fromarray(CARD).convert("RGBA")).notices == ("opaque alpha channel dropped",)


def test_grey_with_alpha(tmp_path: Path) -> None:
    image = Image.merge("LA", [Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 51)])
    assert as_uint8(read(saved(tmp_path, image, "la.png")))[0, 0, 0].tolist() == [224, 224, 224]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow ink: red
    photo = read(saved(tmp_path, image, "print.tif"))
    assert as_uint8(photo)[0, 3, 3].tolist() == [255, 0, 0]
    assert "CMYK" in photo.notices[0]
    jpeg = read(saved(tmp_path, image, "print.jpg", quality=100)).pixels()[0, :, 3, 3] * 255
    np.testing.assert_allclose(jpeg, [255, 0, 0], atol=3)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    path = saved(tmp_path, frames[0], "film.gif", save_all=True, append_images=frames[1:])
    photo = read(path)
    assert as_uint8(photo)[0, 0, 0].tolist() == list(RED)
    assert photo.notices[0] == "3 frames; frame 1 is used"


def test_black_and_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert as_uint8(read(saved(tmp_path, image, "bw.png")))[0, 0].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "float16", "tensor", "batch"])
def test_arrays_and_tensors_give_the_same_pixels(kind: str, channels_last: bool) -> None:
    card = np.tile(CARD, (4, 3, 1))  # 8x9: only one axis can be colour
    array = card if channels_last else card.transpose(2, 0, 1)
    source: object = array
    if kind.startswith("float"):
        source = (array / 255).astype(kind)
    elif kind == "tensor":
        source = torch.from_numpy(array.copy()).float().div(255)
    elif kind == "batch":
        source = np.stack([array, array])
    pixels = read(source).pixels()  # type: ignore[arg-type]
    assert pixels.dtype == torch.float32
    assert len(pixels) == (2 if kind == "batch" else 1)
    expected = torch.from_numpy(card.transpose(2, 0, 1).copy()).float() / 255
    torch.testing.assert_close(pixels[-1], expected, atol=1e-3 if kind == "float16" else 1e-7, rtol=0)


def test_an_ambiguous_shape_is_said() -> None:
    array = np.zeros((3, 5, 3), dtype=np.uint8)
    array[0] = 255
    assert read(array).size == (3, 5)
    assert read(torch.from_numpy(array)).size == (5, 3)
    assert "two ways" in read(array).notices[0]


def test_the_source_is_left_alone() -> None:
    image = Image.fromarray(CARD)
    tensor = torch.rand(3, 4, 4, requires_grad=True)
    array = np.random.default_rng(0).random((4, 4))
    array.flags.writeable = False
    kept = tensor.detach().clone(), array.copy()
    photos = [read(image), read(tensor), read(array)]
    assert not any(p.pixels().requires_grad for p in photos)
    assert image.size == (3, 2)
    assert torch.equal(tensor, kept[0])
    assert np.array_equal(array, kept[1])
    assert read(photos[0]) is photos[0]


def test_bytes_and_text_paths(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(CARD), "a.png")
    for source in (str(path), path, path.read_bytes()):
        np.testing.assert_array_equal(as_uint8(read(source))[0], CARD)
    assert read(str(path)).name == "a.png"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (np.zeros((1, 1, 1, 3, 3)), r"must have 2, 3 or 4 dimensions, got 5"),
        (np.zeros(7), r"must have 2, 3 or 4 dimensions, got 1"),
        (np.zeros((0, 5, 3)), r"no pixels: shape 0x5x3"),
        (np.zeros((7, 8, 9)), r"no axis of 7x8x9 can be colour"),
        (np.full((4, 4), 255.0), r"reach from 255 to 255.*image / 255"),
        (torch.full((3, 4, 4), -2.0), r"reach from -2 to -2.*undo the normalisation"),
        (np.zeros((4, 4), dtype=np.int64), r"int64 numbers from 0 to 0.*astype\('uint8'\)"),
        (np.zeros((4, 4), dtype=complex), r"complex128"),
        ([1, 2, 3], r"a list is no picture"),
        (None, r"NoneType is no picture"),
        ("https://example.org/cat.jpg", r"nothing is fetched.*download"),
        ("data:image/png;base64,xyz", r"nothing is fetched"),
    ],
)
def test_what_is_no_picture_is_refused(source: object, found: str) -> None:
    with pytest.raises(InputError, match=f"(?s){found}"):
        read(source)  # type: ignore[arg-type]


def test_nan_is_located() -> None:
    x = torch.zeros(2, 3, 4, 5)
    x[1, 2, 3, 0] = float("nan")
    x[1, 2, 3, 4] = float("inf")
    with pytest.raises(InputError, match=r"^2 pixel values .* picture 1, channel 2, row 3, column 0"):
        read(x)


def test_rounding_just_outside_the_range_is_clipped() -> None:
    assert read(torch.full((3, 2, 9), 1 + 5e-7)).pixels().max() == 1


def test_missing_empty_text_and_folders(tmp_path: Path) -> None:
    saved(tmp_path, Image.fromarray(CARD), "tabby.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("this is no picture")
    for name, found in [
        ("taby.png", r"no file .*tabby\.png"),
        ("empty.jpg", r"empty \(0 bytes\)"),
        ("text.jpg", "not a picture that Pillow can read"),
        ("", "is a folder"),
        ("none/x.png", "does not exist either"),
        ("\0", "no file"),
    ]:
        with pytest.raises(InputError, match=found):
            read(f"{tmp_path}/{name}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        read(tmp_path / "pipe.png")


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "tif", "webp", "bmp"])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = saved(tmp_path, Image.fromarray(noise), f"whole.{kind}").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=r"damaged|cannot be opened|not a picture"):
        read(tmp_path / f"cut.{kind}")


def test_damaged_files_never_raise_anything_else(tmp_path: Path) -> None:
    """Random bytes of good files are overwritten: either a picture or an InputError, no warning, no crash."""
    chance, refused = random.Random(0), 0
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.tile(CARD, (8, 8, 1)))
    for kind in ("png", "jpg", "gif", "tif", "webp"):
        good = saved(tmp_path, image, f"good.{kind}", exif=exif).read_bytes()
        for _ in range(60):
            bad = bytearray(good)
            for _ in range(chance.randint(1, 8)):
                bad[chance.randrange(len(bad))] = chance.randrange(256)
            try:
                assert read(bytes(bad)).pixels().isfinite().all()
            except InputError:
                refused += 1
    assert 30 < refused < 270  # both ways out were taken


def test_a_giant_is_refused_from_its_header(tmp_path: Path) -> None:
    (tmp_path / "giant.png").write_bytes(png(30_000, 30_000, 8, 2, b""))
    with pytest.raises(InputError, match=r"900 megapixels.*at most 100 megapixels"):
        read(tmp_path / "giant.png")
    (tmp_path / "large.png").write_bytes(png(11_000, 10_000, 8, 2, b""))  # Pillow only warns at this size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"110 megapixels \(11000x10000\)"):
            read(tmp_path / "large.png")


def test_reading_in_threads_leaves_the_warning_filters_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(CARD), "a.png")
    before = list(warnings.filters)
    seen: list[Tensor] = []
    threads = [threading.Thread(target=lambda: seen.append(read(path).pixels())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert list(warnings.filters) == before


def test_wrong_channels() -> None:
    with pytest.raises(UsageError, match="channels=2"):
        read(io.BytesIO().getvalue(), channels=2)
