"""Preprocessing against torchvision's own transforms, by hand, and TensorFlow's padding against loops."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from cutaway.core.errors import InputError, UnknownNameError, UsageError
from cutaway.core.image import read
from cutaway.core.preprocess import Preprocess, SamePadding

PHOTOS = {"astronaut": data.astronaut, "chelsea": data.chelsea, "coffee": data.coffee, "rocket": data.rocket}
CAFFE = Preprocess(resize=256, resize_mode="warp", crop=227, channels="BGR", range=255, mean=(104, 117, 123))


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "inception_v3", "swin_t", "squeezenet1_1"])
def test_torchvisions_transforms_bit_for_bit(name: str, photo: str) -> None:
    array = PHOTOS[photo]()
    for size in ((), (301, 299), (64, 500)):
        picture = Image.fromarray(array)
        if size:
            picture = picture.resize(size)
        preset = models.get_model_weights(name).DEFAULT.transforms()
        ours = Preprocess(
            resize=preset.resize_size[0],
            crop=preset.crop_size[0],
            interpolation=preset.interpolation.value,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )
        expected = preset(picture)[None]
        got = ours.normalise(ours.fit(read(picture)))
        assert torch.equal(got, expected)
        batch = ours.fit(read(np.stack([np.array(picture)] * 2)))
        assert torch.equal(ours.normalise(batch)[1:], expected)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_warping_equals_torchvision_on_pillow(mode: str) -> None:
    picture = Image.fromarray(data.chelsea())
    ours = Preprocess(resize=(90, 230), crop=(81, 200), interpolation=mode)
    assert ours.resize_mode == "warp"
    resized = tv.resize(picture, [90, 230], InterpolationMode(mode))
    expected = tv.pil_to_tensor(tv.center_crop(resized, [81, 200])).float() / 255
    assert torch.equal(ours.fit(read(picture))[0], expected)
    # Real numbers go another way, so they differ only by the 8-bit rounding, done twice by Pillow.
    real = ours.fit(read(tv.pil_to_tensor(picture).double() / 255))
    assert real.dtype == torch.float64
    torch.testing.assert_close(real[0].float(), expected, atol=1.6 / 255, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_tensors_equal_torchvision_on_tensors(mode: str) -> None:
    x = torch.rand(2, 3, 50, 37)
    ours = Preprocess(resize=24, crop=(20, 24), interpolation=mode).fit(read(x))
    expected = tv.center_crop(tv.resize(x, [24], InterpolationMode(mode), antialias=True), [20, 24])
    torch.testing.assert_close(ours, expected.clamp(0, 1), atol=1e-7, rtol=0)


def test_real_photographs(data_folder: Path) -> None:
    preset = models.get_model_weights("mobilenet_v2").DEFAULT.transforms()
    ours = Preprocess(
        resize=preset.resize_size[0], crop=preset.crop_size[0], mean=tuple(preset.mean), std=tuple(preset.std)
    )
    for path in sorted((data_folder / "imagenet_samples").glob("*.jpg"))[::70]:
        with Image.open(path) as picture:
            expected = preset(picture.convert("RGB"))
        assert torch.equal(ours.normalise(ours.fit(read(path)))[0], expected), path.name


def test_caffe_by_hand() -> None:
    u = torch.tensor([200, 100, 50]).view(1, 3, 1, 1) / 255
    assert CAFFE.normalise(u).flatten().tolist() == pytest.approx([50 - 104, 100 - 117, 200 - 123], abs=1e-4)


def test_mean_and_std_are_in_the_networks_order_and_range() -> None:
    p = Preprocess(channels="BGR", range=255, mean=(1, 2, 3), std=(10, 20, 30))
    u = torch.tensor([0.6, 0.4, 0.2], dtype=torch.float64).view(1, 3, 1, 1)
    expected = [(51 - 1) / 10, (102 - 2) / 20, (153 - 3) / 30]
    assert p.normalise(u).flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "p",
    [
        CAFFE,
        Preprocess(mean=(0.5,), std=(0.2, 0.3, 0.4)),
        Preprocess(channels="L", mean=(0.1,), std=(0.3,)),
        Preprocess(),
    ],
)
def test_normalise_is_differentiable_and_undone(p: Preprocess) -> None:
    u = torch.rand(2, p.pixel_channels, 4, 5, dtype=torch.float64, requires_grad=True)
    x = p.normalise(u)
    assert x.dtype == torch.float64
    assert x.data_ptr() != u.data_ptr()  # an in-place operator of the network must not reach the picture
    torch.testing.assert_close(p.denormalise(x), u, atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(x.sum(), u)
    # dx/du = range / std, in the order of the picture's channels
    scale = p.range / torch.tensor(p.std, dtype=torch.float64)
    expected = (scale.flip(0) if p.channels == "BGR" else scale).view(1, -1, 1, 1).expand_as(u)
    torch.testing.assert_close(gradient, expected)


def test_a_grey_network_takes_colour_too() -> None:
    p = Preprocess(channels="L", mean=(0.5,))
    x = p.normalise(torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1))
    assert x.item() == pytest.approx(0.299 + 0.5 * 0.587 - 0.5)
    assert p.fit(read(data.camera())).shape == (1, 1, 512, 512)
    assert torch.equal(p.fit(read(data.camera())), p.fit(read(data.camera(), channels=1)))


@pytest.mark.parametrize("size", [(100, 160), (161, 100), (37, 37)])
@pytest.mark.parametrize(
    "p",
    [
        Preprocess(resize=64, crop=50),
        Preprocess(resize=(40, 80), crop=(33, 60)),
        Preprocess(crop=30),
        Preprocess(resize=20),
        Preprocess(),
    ],
)
def test_positions_return_to_the_picture(p: Preprocess, size: tuple[int, int]) -> None:
    """A picture whose brightness is its own coordinate tells where every pixel came from."""
    h, w = size
    for axis, extent in enumerate(size):
        ramp = (torch.arange(extent, dtype=torch.float64) + 0.5) / extent
        picture = (ramp.view(-1, 1) if axis == 0 else ramp.view(1, -1)).expand(h, w)
        seen = p.fit(read(picture))[0, 0]
        *scales, top, left = p.to_original(size)
        index = torch.arange(seen.shape[axis], dtype=torch.float64)
        expected = (index + 0.5 + (top, left)[axis]) * scales[axis] / extent
        line = seen.mean(1 - axis)
        inner = slice(2, -2)  # at the border the filter has only one side
        torch.testing.assert_close(line[inner], expected[inner], atol=0.6 / extent, rtol=0)
    assert p.size in (None, tuple(seen.shape))


def test_pictures_smaller_than_the_crop_are_refused() -> None:
    with pytest.raises(InputError, match=r"array is 20x30 pixels, smaller than the crop 24x24"):
        Preprocess(crop=24).fit(read(np.zeros((20, 30), dtype=np.uint8)))


def test_extremely_narrow_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="would grow to 256x25600000"):
        Preprocess(resize=256).fit(read(np.zeros((1, 100_000), dtype=np.uint8)))


@pytest.mark.parametrize(
    ("values", "error", "found"),
    [
        ({"resise": 1}, UnknownNameError, "resize"),
        ({"resize": 0}, UsageError, "resize=0"),
        ({"resize": 2.5}, UsageError, "resize=2.5"),
        ({"resize": True}, UsageError, "resize=True"),
        ({"crop": [1, 2, 3]}, UsageError, "crop"),
        ({"crop": "224"}, UsageError, "crop='224'"),
        ({"range": 1.5}, UsageError, "range=1.5"),
        ({"range": True}, UsageError, "range=True"),
        ({"channels": "GBR"}, UsageError, "'RGB', 'BGR', 'L'"),
        ({"channels": ["R"]}, UsageError, "channels"),
        ({"interpolation": "cubic"}, UsageError, "bicubic"),
        ({"resize_mode": "long_side"}, UsageError, "'short_side', 'warp'"),
        ({"padding": "same"}, UsageError, "tensorflow_same"),
        ({"mean": [1, 2]}, UsageError, "mean"),
        ({"mean": [float("nan")]}, UsageError, "mean"),
        ({"std": [0, 1, 1]}, UsageError, "numbers above 0"),
        ({"channels": "L", "mean": [0, 0, 0]}, UsageError, "mean"),
    ],
)
def test_bad_values_are_refused(values: dict[str, object], error: type[Exception], found: str) -> None:
    with pytest.raises(error, match=found):
        Preprocess.from_dict(values)


def test_json_there_and_back(tmp_path: Path) -> None:
    for p in (CAFFE, Preprocess(), Preprocess(resize=(3, 4), channels="L", padding="tensorflow_same")):
        (tmp_path / "p.json").write_text(json.dumps(p.to_dict()))
        assert Preprocess.from_json(tmp_path / "p.json") == p
    for text, found in [("[1]", "holds a list"), ("{", "not JSON"), ('{"crop": null}', "")]:
        (tmp_path / "p.json").write_text(text)
        if found:
            with pytest.raises(InputError, match=found):
                Preprocess.from_json(tmp_path / "p.json")
    with pytest.raises(InputError, match="cannot read"):
        Preprocess.from_json(tmp_path / "none.json")


# --- TensorFlow's SAME padding -----------------------------------------------------------------------------


def windows(n: int, k: int, s: int, d: int) -> list[list[int]]:
    """The input positions each output reads, from the TensorFlow guide's definition, without clipping."""
    out = -(-n // s)
    total = max((out - 1) * s + (k - 1) * d + 1 - n, 0)
    return [[o * s - total // 2 + i * d for i in range(k)] for o in range(out)]


def by_loops(kind: str, x: np.ndarray, w: np.ndarray, stride: tuple, dilation: tuple) -> np.ndarray:
    """One channel (H, W), one output at a time; a position outside the picture is skipped."""
    rows = windows(x.shape[0], w.shape[0], stride[0], dilation[0])
    columns = windows(x.shape[1], w.shape[1], stride[1], dilation[1])
    out = np.zeros((len(rows), len(columns)))
    for a, row in enumerate(rows):
        for b, column in enumerate(columns):
            inside = [
                (x[r, c], w[i, j])
                for i, r in enumerate(row)
                for j, c in enumerate(column)
                if 0 <= r < x.shape[0] and 0 <= c < x.shape[1]
            ]
            if kind == "conv":
                out[a, b] = sum(v * k for v, k in inside)
            elif kind == "max":
                out[a, b] = max(v for v, _ in inside)
            else:
                out[a, b] = sum(v for v, _ in inside) / (w.size if kind == "mean" else len(inside))
    return out


SHAPES = [  # kernel, stride, dilation, PyTorch's padding, height and width
    ((3, 3), (2, 2), (1, 1), (1, 1), (8, 9)),
    ((7, 7), (2, 2), (1, 1), (3, 3), (15, 16)),
    ((3, 3), (1, 1), (1, 1), (1, 1), (5, 6)),
    ((2, 2), (2, 2), (1, 1), (1, 1), (7, 6)),
    ((3, 5), (2, 3), (1, 1), (1, 2), (11, 10)),
    ((3, 3), (2, 2), (2, 2), (2, 2), (12, 13)),
    ((3, 3), (4, 4), (1, 1), (1, 1), (8, 10)),
]


@pytest.mark.parametrize(("kernel", "stride", "dilation", "padding", "size"), SHAPES)
@pytest.mark.parametrize("kind", ["conv", "max", "mean", "mean_inside"])
def test_same_padding_against_loops(kind, kernel, stride, dilation, padding, size) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(2, 3, *size, dtype=torch.float64) - 5  # below 0, where zero padding would win a maximum
    w = torch.randn(3, 1, *kernel, dtype=torch.float64)
    wide = any(2 * p > k for p, k in zip(padding, kernel, strict=True))
    if kind.startswith("mean") and (dilation != (1, 1) or wide):
        pytest.skip("average pooling has no dilation, and PyTorch pads at most half a window")
    with SamePadding():
        if kind == "conv":
            y = F.conv2d(x, w, None, stride, padding, dilation, groups=3)
        elif kind == "max":
            y = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode=True)
        else:
            y = F.avg_pool2d(x, kernel, stride, padding, count_include_pad=kind == "mean")
    for n in range(2):
        for c in range(3):
            expected = by_loops(kind, x[n, c].numpy(), w[c, 0].numpy(), stride, dilation)
            np.testing.assert_allclose(y[n, c].numpy(), expected, rtol=1e-12)


class Spellings(nn.Module):
    """Modules, functions and keywords that all pad."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3, 2, padding=1), nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.conv(x))
        h = torch.conv2d(h, self.conv.weight[:, :1].repeat(1, 4, 1, 1), padding=(1,), stride=2)
        h = torch.max_pool2d(input=h, kernel_size=2, padding=1)
        return F.avg_pool2d(h, kernel_size=3, stride=2, padding=1)


def test_every_spelling_is_padded_and_seen_by_an_outer_mode() -> None:
    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(getattr(func, "__name__", str(func)))
            kwargs = kwargs or {}
            if "conv" in seen[-1] or "pool" in seen[-1]:
                padding = kwargs.get("padding", args[4] if "conv" in seen[-1] and len(args) > 4 else 0)
                paddings.append(padding)
            return func(*args, **kwargs)

    seen: list[str] = []
    paddings: list[object] = []
    net, x = Spellings(), torch.randn(1, 3, 64, 64)
    with torch.no_grad(), Watch(), SamePadding():
        y = net(x)
    assert y.shape[-2:] == (2, 2)  # 64 halved five times
    assert [n for n in seen if n in ("pad", "_pad")], "the padding is an operator of its own"
    assert paddings == [0] * 5


def test_symmetric_and_unpadded_calls_are_untouched() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 5, padding="same"),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 4, 5, padding=2, groups=2),
        nn.AvgPool2d(3, 1, padding=1),
    )
    x = torch.randn(2, 3, 21, 20)
    with torch.no_grad():
        expected = net(x)
        with SamePadding():
            assert torch.equal(net(x), expected)


def test_switches_point_into_the_unpadded_picture() -> None:
    for size in ((9, 8), (8, 9), (10, 12)):
        x = torch.randn(1, 2, *size)
        with SamePadding():
            y, switches = F.max_pool2d(x, 5, 2, padding=2, return_indices=True)
        assert torch.equal(x.flatten(2).gather(2, switches.flatten(2)).view_as(y), y)


def test_gradients_pass() -> None:
    conv = nn.Conv2d(1, 1, 3, 2, padding=1).double()
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    with SamePadding():
        assert torch.autograd.gradcheck(lambda v: F.max_pool2d(conv(v), 3, 2, padding=1), x)


def test_the_same_shapes_as_the_formula() -> None:
    for n in range(7, 20):
        with SamePadding():
            assert F.max_pool2d(torch.zeros(1, 1, n, n), 3, 2, 1).shape[-1] == math.ceil(n / 2)
