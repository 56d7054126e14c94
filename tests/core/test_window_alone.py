"""Answers that depend on a picture's company, on chance or on the layout in memory: right, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway.core import windows
from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.window_whole import accompanied
from cutaway.core.windows import Memory, Report, evaluate

SIZE = 24
GRID = torch.tensor([[i, j, i + 4, j + 4] for i in range(0, 21, 4) for j in range(0, 21, 4)])
Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Two convolutions, the mean over all places and a linear layer, run as `function` says."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc, self.function = nn.Linear(4, 5), function
        self.held = torch.empty(0)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) * 0.4

    def body(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).relu()

    def head(self, h: Tensor) -> Tensor:
        return self.fc(h.mean((2, 3)))

    def usual(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def pictures(size: int = SIZE, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x, fill = torch.rand(2, 3, size, size, generator=generator, dtype=torch.float64).to(dtype)
    return x[None], fill


def answers(
    net: nn.Module, boxes: Tensor, x: Tensor, fill: Tensor, **options: object
) -> tuple[Tensor, Report]:
    model, report = cutaway.VisionModel(net.eval(), cutaway.Preprocess(), name="net"), Report()
    found: dict[int, Tensor] = {}
    with model.guard():
        for numbers, values in evaluate(model, x, boxes, fill, report=report, **options):  # type: ignore[arg-type]
            found |= dict(zip(numbers.tolist(), values[None], strict=True))  # kept, not copied
    return torch.stack([found[i] for i in range(len(boxes))]), report


def one_by_one(net: nn.Module, boxes: Tensor, x: Tensor, fill: Tensor) -> Tensor:
    out = []
    for box in boxes:
        picture = x.clone()
        if boxes.dtype == torch.bool:
            picture = torch.where(box, fill.to(x), x)
        else:
            top, left, bottom, right = box.tolist()
            picture[0, :, top:bottom, left:right] = fill[:, top:bottom, left:right]
        with torch.no_grad():
            out.append(net(picture)[0].clone())
    return torch.stack(out)


def off(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


def writes(net: Net, x: Tensor) -> Tensor:
    """Through a view, which is a copy where channels are last in memory."""
    h = net.first(x)
    h.view(len(h), -1)[:, ::3] *= -3
    return net.head(h.relu())


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("count", [1, 3])
def test_batches_of_one_do_not_lose_what_is_written_through_a_view(engine: str, count: int) -> None:
    """At 512x512 a batch holds one picture."""
    x, fill = pictures(512)
    boxes = torch.tensor([[0, 0, 200, 200], [100, 100, 300, 300], [200, 200, 400, 400]])[:count]
    net = Net(writes)
    assert off(answers(net, boxes, x, fill, engine=engine)[0], one_by_one(net, boxes, x, fill)) < 1e-5


def test_a_stroke_that_windows_do_not_pay_for_loses_nothing_written_through_a_view() -> None:
    x, fill = pictures()
    net, box = Net(writes), torch.tensor([[0, 0, 23, 23]])
    got, report = answers(net, box, x, fill, memory=Memory())
    assert report.engine == "plain"
    assert off(got, one_by_one(net, box, x, fill)) < 1e-5


@pytest.mark.parametrize("again", [1, 2])
def test_a_stroke_whose_window_does_not_see_what_is_written_goes_whole(
    again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "WORTH", 0.0)
    x, fill = pictures()
    net, memory = Net(writes), Memory()
    for stroke in ([[4, 4, 9, 9]], [[5, 6, 11, 11]])[:again]:
        box = torch.tensor(stroke)
        assert off(answers(net, box, x, fill, memory=memory)[0], one_by_one(net, box, x, fill)) < 1e-5


def test_layers_that_see_each_picture_twice_do_not_mix_them() -> None:
    def doubled(net: Net, x: Tensor) -> Tensor:
        return net.usual(torch.cat([x, x.flip(-1)]))[: len(x)]

    found, _ = answers(Net(doubled), GRID, *pictures(), layers=("first",))
    assert off(found, one_by_one(Net(Net.usual), GRID, *pictures())) < 1e-5


COMPANY: dict[str, Forward] = {
    "the first": lambda net, x: net.usual(x - x[:1].mean((2, 3), keepdim=True)),
    "the last": lambda net, x: net.usual(x - x[-1:].mean((2, 3), keepdim=True)),
    "the one before": lambda net, x: net.usual(x) + 0.1 * net.usual(x).roll(1, 0),
    "their mean": lambda net, x: net.usual(x) + 0.1 * net.usual(x).mean(0, keepdim=True),
    "the largest": lambda net, x: net.usual(x) / net.usual(x).abs().max(),
    "their number": lambda net, x: net.usual(x) * (1 + 0.1 * (len(x) > 1)),
    "batch statistics": lambda net, x: net.head(F.batch_norm(net.body(x), None, None, training=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPANY)
@pytest.mark.parametrize("engine", ["auto", "forced", "plain"])
@pytest.mark.parametrize("batch", [None, 2, 7])
@pytest.mark.parametrize("empty", [0, 4])
def test_what_depends_on_the_company_is_refused(
    name: str, engine: str, batch: int | None, empty: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With empty boxes ahead the first batch of two holds one picture twice."""
    if engine == "forced":
        monkeypatch.setattr(windows, "WORTH", 0.0)
        monkeypatch.setattr(windows, "LITTLE", 0.0)
    boxes = torch.cat([torch.zeros(empty, 4, dtype=torch.int64), GRID])
    if (name, engine, batch) == ("the largest", "forced", 2):
        pytest.skip("of two windows the larger is not touched, and one of two is looked at")
    how = "plain" if engine == "plain" else "auto"
    with pytest.raises(MethodRefusedError, match="depends on the other pictures"):
        answers(Net(COMPANY[name]), boxes, *pictures(), engine=how, batch=batch)


CHANCE: dict[str, Forward] = {
    "dropout": lambda net, x: net.head(F.dropout(net.body(x), 0.05, True)),
    "noise": lambda net, x: net.usual(x) + 1e-3 * torch.randn(len(x), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANCE)
@pytest.mark.parametrize("how", [{}, {"engine": "plain"}, {"batch": 1}, {"engine": "plain", "batch": 1}])
def test_chance_is_refused_in_its_own_words(name: str, how: dict[str, object]) -> None:
    with pytest.raises(MethodRefusedError, match="differently when asked twice"):
        answers(Net(CHANCE[name]), GRID, *pictures(), **how)


@pytest.mark.parametrize("method", ["rise", "lime", "occlusion"])
def test_no_map_of_chance_is_drawn(method: str) -> None:
    model = cutaway.VisionModel(Net(CHANCE["dropout"]).eval(), cutaway.Preprocess(), name="net")
    options = {"rise": {"samples": 50}, "lime": {"players": "grid", "samples": 50}, "occlusion": {}}[method]
    with pytest.raises(MethodRefusedError, match="differently when asked twice"):
        model.explain(pictures()[0][0], method, 1, **options)


@pytest.mark.parametrize("share", [0.1, 1e-3])
def test_rise_refuses_what_depends_on_the_company(share: float) -> None:
    net = Net(lambda net, x: net.usual(x) + share * net.usual(x).mean(0, keepdim=True))
    model = cutaway.VisionModel(net.eval(), cutaway.Preprocess(), name="net")
    with pytest.raises(MethodRefusedError, match="depends on the other pictures"):
        model.explain(pictures()[0][0], "rise", 1, samples=50)


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nearly", [1e-3, 1e-5, 0.0])
def test_one_score_near_zero_is_no_reason_to_refuse(
    forced: bool, dtype: torch.dtype, nearly: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture that is compared stands where the score changes sign."""
    if forced:
        monkeypatch.setattr(windows, "WORTH", 0.0)
        monkeypatch.setattr(windows, "LITTLE", 0.0)
    x, fill = pictures(dtype=dtype)
    torch.manual_seed(0)
    level = torch.zeros((), dtype=dtype)
    net = Net(lambda net, x: 100 * net.usual(x)[:, :1] - level).to(dtype)
    level += one_by_one(net, GRID[:1], x, fill)[0, 0] - nearly
    got, report = answers(net, GRID, x, fill)
    assert report.engine == ("incremental" if forced else "plain"), report
    rounding = 1e-5 if dtype == torch.float32 else 1e-13
    assert float((got - one_by_one(net, GRID, x, fill)).abs().max()) < rounding * 100


def test_a_network_that_rounds_coarsely_is_not_refused() -> None:
    """Large numbers that cancel: a picture alone differs from itself among others, whoever they are."""

    def coarse(net: Net, x: Tensor) -> Tensor:
        return net.usual(x) + 2e-5 * (len(x) > 1)  # as another order of summation would

    got, _ = answers(Net(coarse), GRID, *pictures())
    assert off(got, one_by_one(Net(coarse), GRID, *pictures())) < 1e-3


class Mute(nn.Module):
    """Takes plain tensors alone, and says nothing about it."""

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is not Tensor:
            raise LookupError
        return x


def test_an_exception_without_words_only_ends_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "LITTLE", 0.0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Mute(), nn.Flatten(), nn.Linear(4 * 22 * 22, 2))
    got, report = answers(net, GRID, *pictures())
    assert off(got, one_by_one(net, GRID, *pictures())) < 1e-5
    assert "LookupError" in report.why


@pytest.mark.parametrize(("kept", "asked"), [("fast", "exact"), ("exact", "fast")])
def test_a_memory_of_another_precision_is_refused(kept: str, asked: str) -> None:
    with pytest.raises(UsageError, match="precision"):
        answers(Net(Net.usual), GRID[:1], *pictures(), memory=Memory(kept), precision=asked)  # type: ignore[arg-type]


def into_its_own(net: Net, x: Tensor) -> Tensor:
    """Every answer in the same memory."""
    h = net.body(x).mean((2, 3))
    net.held.resize_(len(x), 5)
    return torch.mm(h, net.fc.weight.t(), out=net.held)


@pytest.mark.parametrize("options", [{}, {"batch": 1}, {"batch": 5}, {"engine": "plain", "batch": 5}])
def test_memory_that_the_next_pass_writes_to_is_copied(options: dict[str, object]) -> None:
    net = Net(into_its_own)
    got, _ = answers(net, GRID, *pictures(), **options)
    assert off(got, one_by_one(Net(into_its_own), GRID, *pictures())) < 1e-5


@pytest.mark.parametrize("forced", [True, False])
def test_fills_and_boxes_of_other_types(forced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if forced:
        monkeypatch.setattr(windows, "WORTH", 0.0)
        monkeypatch.setattr(windows, "LITTLE", 0.0)
    x, fill = pictures()
    net, masks = Net(Net.usual), torch.rand(9, SIZE, SIZE) < 0.2
    for boxes in (masks, *(GRID.to(t) for t in (torch.uint8, torch.int8, torch.int16, torch.int32))):
        want = one_by_one(net, boxes, x, fill)
        assert off(answers(net, boxes, x, fill.double())[0], want) < 1e-5


def test_infinite_answers_stay() -> None:
    def infinite(net: Net, x: Tensor) -> Tensor:
        return torch.cat([net.usual(x), torch.full((len(x), 1), -torch.inf)], 1)

    got, _ = answers(Net(infinite), GRID, *pictures())
    torch.testing.assert_close(got, one_by_one(Net(infinite), GRID, *pictures()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int16])
def test_boxes_of_small_integers_lie_in_large_pictures(kind: torch.dtype) -> None:
    net = nn.Sequential(nn.AvgPool2d(50), nn.Flatten(), nn.Linear(108, 2)).eval()
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="net")
    boxes = torch.tensor([[0, 0, 50, 50], [3, 4, 60, 70]])
    x, fill = torch.rand(1, 3, 300, 300), torch.zeros(3, 300, 300)
    with model.guard():
        small, wide = (
            {
                int(n): v
                for ns, vs in windows.evaluate(model, x, b, fill)
                for n, v in zip(ns, vs[None], strict=True)
            }
            for b in (boxes.to(kind), boxes)
        )
    assert all(torch.equal(small[i], wide[i]) for i in range(2))


def test_a_network_that_computes_in_bfloat16_is_not_taken_for_one_that_mixes_pictures() -> None:
    class Coarse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 32, 3), nn.Linear(32, 5)

        def forward(self, h: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.fc(self.conv(h).relu().mean((2, 3))).float()

    for seed in range(12):
        torch.manual_seed(seed)
        model = cutaway.VisionModel(Coarse().eval(), cutaway.Preprocess(), name="net")
        boxes = torch.tensor([[i, i, i + 9, i + 7] for i in range(12)])
        with model.guard():
            assert list(windows.evaluate(model, torch.rand(1, 3, 32, 32), boxes, torch.zeros(3, 32, 32)))


def test_the_known_one_of_two_stands_between_the_other_and_a_stranger() -> None:
    pictures = torch.stack([torch.zeros(1, 1, 1), torch.ones(1, 1, 1) / 4])
    for place in (0, 1):
        three, first = accompanied(pictures, place)
        assert torch.equal(three[1], pictures[place])
        assert torch.equal(three[first : first + 2], pictures)
