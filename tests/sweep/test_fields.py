"""Receptive fields of whole layers against one walk for each place of each channel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.geometry import receptive_field
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.sweep.fields import fields_of

SIDE = 22


class Joined(nn.Module):
    """Dense joins, a shuffle, a slice of channels, and a path that reads no pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(2 * i + 3, 2, 3, padding=i, dilation=max(i, 1)) for i in range(4)]
        )
        self.alone = nn.Conv2d(4, 4, 5, padding=2, groups=4)
        self.constant = nn.Parameter(torch.ones(1, 1, 1, 1))
        self.kept, self.some, self.late = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            new = conv(x)
            x = torch.cat([F.pad(x, [(new.shape[-1] - x.shape[-1]) // 2] * 4), new], 1)
        x = self.kept(F.channel_shuffle(x[:, 1:], 2))
        some = self.some(
            torch.cat([x[:, 3:7] + self.alone(x[:, :4]), self.constant.expand(-1, -1, *x.shape[2:])], 1)
        )
        out: Tensor = self.late(
            torch.cat([F.avg_pool2d(some[:, :4], 2), F.max_pool2d(x[:, 4:6], 3, 2, 1)], 1)
        )
        return out.mean((2, 3))


class Bent(nn.Module):
    """What no affine rule holds for: enlarged, mirrored, pooled unevenly, and joined with what one holds for."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, 2, 1), nn.Conv2d(3, 2, 3, padding=1)
        self.up, self.after = nn.ConvTranspose2d(3, 2, 3, 2, 1), nn.Conv2d(4, 3, 3, padding=1)
        self.both, self.uneven, self.last = nn.Identity(), nn.AdaptiveAvgPool2d((5, 4)), nn.Conv2d(3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(self.one(x))
        wide = F.interpolate(self.two(x).flip(3), size=up.shape[2:], mode="bilinear")
        both = self.both(torch.cat([up, wide], 1))
        out: Tensor = self.last(self.uneven(self.after(both)))
        return out.mean((2, 3))


class Gated(nn.Module):
    """Half of the channels are weighed by a gate that reads every place; one convolution's weights are the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(3, 4, 3), nn.Conv2d(2, 2, 1)
        self.parted, self.odd, self.end = nn.Identity(), nn.Identity(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        gate = self.gate(x[:, :2].mean((2, 3), keepdim=True)).sigmoid()
        x = self.parted(torch.cat([x[:, :2] * gate, x[:, 2:]], 1))
        odd = self.odd(F.conv2d(x, x[:1, :, :1, :1]))
        out: Tensor = self.end((x * odd).mean((2, 3)))
        return out


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        (Joined, {"kept": 5, "some": 2, "late": 4}),
        (Bent, {"both": 2, "last": 1}),
        (Gated, {"parted": 2, "end": 1}),
    ],
)
def test_fields_are_those_of_one_walk_for_each_place(kind: type[nn.Module], known: dict[str, int]) -> None:
    torch.manual_seed(1)
    model = VisionModel(kind().eval(), Preprocess(resize=SIDE, crop=SIDE), name="net")
    model.pixels(torch.zeros(1, 3, SIDE, SIDE))
    trace, layers = model.layers.trace, [r.name for r in model.layers if r.layout != "other"]
    found = fields_of(model, layers)
    for layer in layers:
        row = model.layers.find(layer)
        high, wide = row.grid or (1, 1)
        apart = row.grid is not None
        for channel in range(row.units):
            places = [(i % high, i % wide) for i in range(max(high, wide))]
            try:
                want = [
                    receptive_field(trace, layer, *at, channel=channel if apart else None).unclipped
                    for at in places
                ]
            except (MethodRefusedError, UsageError):
                assert layer not in found or found[layer].group[channel] == -1
                continue
            rows, cols = torch.tensor(places).T
            got = found[layer].boxes(torch.full((len(rows),), channel), rows, cols)
            assert got.tolist() == [list(map(float, box)) for box in want], (layer, channel)
    for layer, groups in known.items():
        assert len(found[layer].rows) == groups, layer


def test_a_vector_that_maps_were_flattened_to_has_no_place_on_them() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 2)).eval()
    model = VisionModel(net, Preprocess(resize=12, crop=12), name="flat")
    assert sorted(fields_of(model, ["0", "1", "2"])) == ["0", "2"]


def test_a_chain_deeper_than_python_calls_is_walked() -> None:
    deep = nn.Sequential(*(nn.Conv2d(3, 3, 1, groups=3) for _ in range(1100)))
    model = VisionModel(deep.eval(), Preprocess(resize=4, crop=4), name="deep")
    assert fields_of(model, ["1099"])["1099"].group.tolist() == [0, 0, 0]
