"""Receptive fields against published sizes and against the support of the gradient."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cutaway.core.axes import Kind
from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.geometry import Box, geometry, receptive_field
from cutaway.core.layers import LayerTable
from cutaway.core.trace import Trace, trace


def _published(name: str, size: int = 224) -> LayerTable:
    with torch.device("meta"):
        network = getattr(torchvision.models, name)(weights=None)
        return LayerTable.of(network, torch.zeros(1, 3, size, size))


def _field(table: LayerTable, layer: str) -> tuple[int, float]:
    row = table.find(layer)
    assert row.field is not None
    assert row.jump is not None
    assert row.field[0] == row.field[1]
    return row.field[0], row.jump[0]


@pytest.mark.parametrize(
    ("network", "fields"),
    [
        (
            "alexnet",
            {
                "features.0": (11, 4),
                "features.3": (51, 8),
                "features.6": (99, 16),
                "features.8": (131, 16),
                "features.10": (163, 16),
                "features.12": (195, 32),
            },
        ),
        ("vgg16", {"features.28": (196, 16), "features.30": (212, 32)}),
        ("resnet18", {"layer4": (435, 32)}),
        ("resnet50", {"layer4": (427, 32)}),
    ],
)
def test_published_sizes_and_jumps(network: str, fields: dict[str, tuple[int, int]]) -> None:
    table = _published(network)
    assert {layer: _field(table, layer) for layer in fields} == fields


def test_zf_network() -> None:
    # Zeiler & Fergus: 7x7 stride 2, pool 3/2, 5x5 stride 2, pool 3/2, three 3x3
    net = nn.Sequential(
        nn.Conv2d(3, 2, 7, 2, 1),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(2, 2, 5, 2),
        nn.MaxPool2d(3, 2, 1),
        *(nn.Conv2d(2, 2, 3, 1, 1) for _ in range(3)),
    )
    assert _field(LayerTable.of(net, torch.zeros(1, 3, 224, 224)), "6") == (139, 16)


def test_three_layer_chain() -> None:
    # (kernel, stride, padding, dilation) = (3,2,1,1), (3,1,2,2), (2,2,0,1); unit (5, 7)
    net = nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 3, 1, 2, 2), nn.Conv2d(1, 1, 2, 2))
    field = receptive_field(trace(net, torch.zeros(1, 1, 64, 64)), "2", 5, 7)
    assert field.unclipped == field.clipped == Box(15, 23, 27, 35)
    corner = receptive_field(trace(net, torch.zeros(1, 1, 64, 64)), "2", 0, 0)
    assert corner.unclipped == Box(-5, -5, 7, 7)
    assert corner.clipped == Box(0, 0, 7, 7)


def test_region_of_the_textbook_needs_zero_based_indices() -> None:
    # the 1-based Region(3, 4) with kernel 3, stride 2 is the 0-based unit (2, 3)
    ran = trace(nn.Conv2d(1, 1, 3, 2), torch.zeros(1, 1, 9, 9))
    assert receptive_field(ran, "", 2, 3).unclipped == Box(4, 6, 6, 8)
    narrow = trace(nn.Conv2d(1, 1, 3, 2), torch.zeros(1, 1, 9, 8))
    with pytest.raises(UsageError, match="column 3"):
        receptive_field(narrow, "", 2, 3)


# --- the support of the gradient, for random networks -------------------------------------------------------


class _SumPools(TorchFunctionMode):
    """Max pooling as the sum of its window, tap by tap, so that every tap has a gradient."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") != "max_pool2d":
            return out
        x, k, s, p, d = (
            args[0],
            *((kwargs or {}).get(n) or args[i] for i, n in ((1, ""), (2, "stride"))),
            0,
            1,
        )
        p, d = (kwargs or {}).get("padding", p), (kwargs or {}).get("dilation", d)
        p, d = (args[3] if len(args) > 3 else p), (args[4] if len(args) > 4 else d)
        room = d * k + s
        wide = F.pad(x, (p, p + room, p, p + room))
        h, w = out.shape[-2:]
        return sum(
            wide[..., i * d : i * d + s * (h - 1) + 1 : s, j * d : j * d + s * (w - 1) + 1 : s]
            for i in range(k)
            for j in range(k)
        )


class _Op(nn.Module):
    """One random operator with the parameters it needs; all weights are positive."""

    def __init__(self, kind: str, rng: random.Random, channels: int) -> None:
        super().__init__()
        self.kind, c = kind, channels
        k, s, d = rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 3)
        p = rng.randint(0, d * (k - 1))
        self.k, self.s, self.p, self.d = k, s, p, d
        self.ceil, self.flag = rng.random() < 0.5, rng.random() < 0.5
        self.four = tuple(rng.randint(0, 2) for _ in range(4))
        self.mode = rng.choice(["constant", "reflect", "replicate", "circular"])
        self.resize = rng.choice(["nearest", "bilinear", "bicubic", "nearest-exact", "area"])
        self.size = (rng.randint(3, 17), rng.randint(3, 17))
        self.factor = rng.choice([2, 3, 0.5])
        if kind in ("conv", "same"):
            k = k // 2 * 2 + 1 if kind == "same" else k
            padding: Any = "same" if kind == "same" else p
            groups = rng.choice([1, 2, c])
            self.conv = nn.Conv2d(c, c, k, 1 if kind == "same" else s, padding, d, groups, bias=False)
        elif kind == "transposed":
            self.conv = nn.ConvTranspose2d(c, c, k, s, min(p, d * (k - 1)), 0, dilation=d, bias=False)
        elif kind in ("add", "cat", "skip"):
            self.conv = nn.Conv2d(c, c, 3, 1, 1, bias=False)
            self.wide = nn.Conv2d(
                c, c // 2 if kind == "cat" else c, (1, 5), 1, (0, 2 * d), (1, d), bias=False
            )
            self.narrow = nn.Conv2d(c, c // 2, (3, 1), 1, (1, 0), bias=False)
        elif kind == "shuffle":
            self.conv = nn.Conv2d(c, 4 * c, 1, bias=False)
        elif kind in ("unshuffle", "manual_unshuffle"):
            self.conv = nn.Conv2d(4 * c, c, 1, bias=False)
        elif kind == "nhwc":
            self.norm, self.linear = nn.LayerNorm(c), nn.Linear(c, c, bias=False)
        elif kind == "split":
            self.conv = nn.Conv2d(c // 2, c // 2, 3, 1, 1, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        k, s, p, d = self.k, self.s, self.p, self.d
        match self.kind:
            case "conv" | "same" | "transposed":
                return self.conv(x)
            case "max":
                return F.max_pool2d(x, k, s, min(p, k // 2), d, self.ceil)
            case "avg":
                return F.avg_pool2d(x, k, s, min(p, k // 2), self.ceil)
            case "adaptive":
                return F.adaptive_avg_pool2d(x, self.size)
            case "add":
                return F.relu(self.conv(x) + self.wide(x))
            case "skip":
                y = x.clone()
                y += F.relu_(self.conv(x))
                return y
            case "cat":
                return torch.cat([self.wide(x), self.narrow(x)], 1)
            case "pad":
                return F.pad(x, self.four, self.mode)
            case "resize":
                if self.flag:
                    corners = self.ceil if self.resize in ("bilinear", "bicubic") else None
                    return F.interpolate(x, self.size, mode=self.resize, align_corners=corners)
                return F.interpolate(x, scale_factor=self.factor, mode=self.resize)
            case "crop":
                a, b, e, f = self.four
                return x[:, :, a : h - b, e : w - f : s]
            case "flip":
                return x.flip(2) if self.flag else torch.flip(x, (2, 3))
            case "roll":
                return torch.roll(x, shifts=(1, -2), dims=(2, 3))
            case "shuffle":
                return F.pixel_shuffle(self.conv(x), 2)
            case "unshuffle":
                return self.conv(F.pixel_unshuffle(x[:, :, : h // 2 * 2, : w // 2 * 2], 2))
            case "manual_unshuffle":
                x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
                return self.conv(x.permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2))
            case "channels":
                return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
            case "nhwc":
                y = self.linear(x.permute(0, 2, 3, 1))
                return y.permute(0, 3, 1, 2)
            case "split":
                a, b = x.chunk(2, dim=1)
                return torch.cat((a, self.conv(b)), 1)
        raise AssertionError(self.kind)


KINDS = [
    *("conv", "conv", "conv", "same", "transposed", "add", "skip", "cat", "max", "max", "avg", "adaptive"),
    *("pad", "resize", "resize", "crop", "flip", "roll", "shuffle", "unshuffle", "manual_unshuffle"),
    *("channels", "nhwc", "split"),
]


def _support(net: nn.Module, x: Tensor, row: int, col: int, channel: int | None) -> Box | None:
    """The bounding box of the pixels with a gradient."""
    x = x.clone().requires_grad_()
    with _SumPools():
        out = net(x)
    unit = out[0, :, row, col].sum() if channel is None else out[0, channel, row, col]
    (gradient,) = torch.autograd.grad(unit, x, allow_unused=True)
    seen = (gradient[0].abs() > 1e-12 * gradient.abs().max()).any(0)  # not the dust of resizing
    rows, cols = seen.nonzero(as_tuple=True)
    if len(rows) == 0:
        return None
    return Box(int(rows.min()), int(cols.min()), int(rows.max()), int(cols.max()))


def _random_network(seed: int) -> tuple[nn.Sequential, Tensor, list[str]] | None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    channels = 4
    x = torch.rand(1, channels, rng.randint(9, 30), rng.randint(9, 30), dtype=torch.float64)
    ops: list[_Op] = []
    y = x
    for _ in range(rng.randint(2, 5)):
        op = _Op(rng.choice(KINDS), rng, channels).double()
        try:
            with torch.no_grad():
                new = op(y)
        except (RuntimeError, ValueError):  # the map is too small for this operator
            continue
        if 1 <= new.shape[-1] <= 80 and 1 <= new.shape[-2] <= 80 and new.numel():
            ops.append(op)
            y = new
    return (nn.Sequential(*ops), x, [op.kind for op in ops]) if ops else None


@pytest.mark.parametrize("block", range(8))
def test_field_is_the_support_of_the_gradient(block: int) -> None:
    tested = 0
    for seed in range(block * 50, block * 50 + 50):
        made = _random_network(seed)
        if made is None:
            continue
        net, x, kinds = made
        last = str(len(net) - 1)
        ran = trace(net, x)
        place = geometry(ran).places[ran.value(last)]
        h, w = place.length(Kind.ROW), place.length(Kind.COLUMN)
        count = ran.value_shape(ran.value(last))[1]
        rng = random.Random(seed)
        for row, col in {(0, 0), (h - 1, w - 1), (h // 2, w // 2), (rng.randrange(h), rng.randrange(w))}:
            for channel in (None, rng.randrange(count)):
                field = receptive_field(ran, last, row, col, channel=channel)
                if field.whole or field.reason:
                    continue
                assert field.clipped == _support(net, x, row, col, channel), (seed, kinds, row, col, channel)
                tested += 1
    assert tested > 150


def test_the_table_agrees_with_the_walk_in_the_middle() -> None:
    # two ways to one number: offsets carried forward for every layer, and intervals walked back from one unit
    compared = 0
    for seed in range(1000, 1200):
        made = _random_network(seed)
        if made is None or "split" in made[2]:  # sizes are those of all channels together
            continue
        net, x, _ = made
        table = LayerTable.of(net, x)
        for row in table:
            place = table.geometry.places[table.trace.value(row.name)]
            if row.field is None or row.grid is None or not (place.rows.steady and place.columns.steady):
                continue
            box = receptive_field(table.trace, row.name, row.grid[0] // 2, row.grid[1] // 2).unclipped
            assert row.field == (box.height, box.width), (seed, row.name)
            compared += 1
    assert compared > 300


def test_unclipped_is_translation_of_an_interior_unit() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 5, 2, 2), nn.MaxPool2d(3, 2, 1), nn.Conv2d(2, 1, 3, 1, 1))
    ran = trace(net, torch.zeros(1, 1, 80, 80))
    middle, corner = (receptive_field(ran, "2", i, i).unclipped for i in (10, 0))
    assert middle.top - corner.top == 10 * 4
    assert (middle.height, middle.width) == (corner.height, corner.width) == (17, 17)


# --- what sees the whole picture, and what is refused ------------------------------------------------------


class _SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, 1, 1)
        self.gate = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


@pytest.mark.parametrize(
    ("network", "layer", "word"),
    [
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1)), "1", "adaptive_avg_pool2d in 1"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 64, 3)), "2", "linear in 2"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), "1", "group_norm in 1"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4)), "1", "instance_norm in 1"),
        (_SqueezeExcite(), "", "mean"),
    ],
)
def test_global_operators_see_the_whole_picture_and_say_so(network: nn.Module, layer: str, word: str) -> None:
    field = receptive_field(trace(network, torch.rand(1, 2, 10, 10)), layer)
    assert field.whole
    assert field.clipped == field.unclipped == Box(0, 0, 9, 9)
    assert word in field.reason


def test_layer_norm_over_channels_keeps_positions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x).permute(0, 2, 3, 1))

    field = receptive_field(trace(Net(), torch.rand(1, 2, 10, 10)), "norm", 1, 2)
    assert field.clipped == Box(1, 2, 3, 4)


def test_attention_sees_everything_but_tokens_before_it_see_their_patch() -> None:
    with torch.device("meta"):
        net = torchvision.models.vit_b_16(weights=None)
        ran = trace(net, torch.zeros(1, 3, 224, 224))
    patch = receptive_field(ran, "encoder.layers.encoder_layer_0.ln_1", 2, 3)
    assert patch.clipped == Box(32, 48, 47, 63)
    assert receptive_field(ran, "encoder.layers.encoder_layer_0", 2, 3).whole


def test_one_channel_of_a_concatenation_follows_its_own_path() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 5, 1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.small(x), self.large(x)], 1)

    ran = trace(Net(), torch.rand(1, 1, 12, 12))
    boxes = [receptive_field(ran, "", 6, 6, channel=c).unclipped.height for c in range(5)]
    assert boxes == [1, 1, 5, 5, 5]
    assert receptive_field(ran, "", 6, 6).unclipped == Box(4, 4, 8, 8)


class _Refused(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv = how, nn.Conv2d(1, 1, 3)
        self.end = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.how == "unknown":
            x = torch.cummax(x, 3)[0]
        elif self.how == "unseen":
            x = torch.from_numpy(x.numpy().cumsum(3))
        else:
            x = F.conv2d(x, x[:, :, :3, :3])
        return self.end(x)


@pytest.mark.parametrize(
    ("how", "name"), [("unknown", "cummax"), ("unseen", "do not show"), ("weight", "conv2d")]
)
def test_what_is_not_understood_is_refused_by_name(how: str, name: str) -> None:
    net, x = _Refused(how), torch.rand(1, 1, 9, 9)
    with pytest.raises(MethodRefusedError, match=name):
        receptive_field(trace(net, x), "end", 0, 0)
    table = LayerTable.of(net, x)
    assert table.find("end").field is None
    assert not table.find("end").whole
    assert name in table.find("end").note
    assert table.find("conv").field == (3, 3)


def test_wrong_questions_are_answered_with_what_is_right() -> None:
    ran: Trace = trace(nn.Sequential(nn.Conv2d(1, 2, 3)), torch.rand(1, 1, 9, 9))
    with pytest.raises(UnknownNameError, match="'1'"):
        receptive_field(ran, "1")
    with pytest.raises(UsageError, match="0 to 6"):
        receptive_field(ran, "0", 7, 0)
    with pytest.raises(UsageError, match="0 to 1"):
        receptive_field(ran, "0", 0, 0, channel=2)


def test_decoder_sizes() -> None:
    # nearest upsampling by 2 after a stride of 2: a 3x3 window covers two coarse cells, 2 pixels apart
    net = nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 3, 1, 1))
    row = LayerTable.of(net, torch.zeros(1, 1, 32, 32)).find("2")
    assert row.field == (5, 5)
    assert row.jump == (1, 1)
