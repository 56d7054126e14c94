"""Windows through every operator: equal to whole pictures to the last digits, and never secretly dense."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway.core import windows
from cutaway.core.windows import Report, evaluate

SIZE = 26


@pytest.fixture(autouse=True)
def _always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WORTH", 0.0)
    monkeypatch.setattr(windows, "LITTLE", 0.0)


class Net(nn.Module):
    """A convolution, the operator in question, a convolution that sees it, a score per class."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.function, self.head = (
            nn.Conv2d(3, 4, 3, padding=1),
            copy.deepcopy(function),
            nn.LazyConv2d(5, 3),
        )
        with torch.no_grad():
            self(torch.zeros(1, 3, SIZE, SIZE))
        generator = torch.Generator().manual_seed(3)
        for name, t in self.state_dict().items():
            if t.is_floating_point():
                noise = torch.rand(t.shape, generator=generator)
                t.copy_(noise + 0.5 if "running_var" in name else noise - 0.4)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.head(self.function(self.stem(x)))
        return h.flatten(1)


def picture() -> Tensor:
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


FILL = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
_PLACES = (
    "0 0 3 3, 1 2 4 5, 23 23 26 26, 0 23 3 26, 11 12 14 15, 12 11 15 14, 22 5 25 8, 5 6 6 7, 25 25 26 26"
)
BOXES = torch.tensor([[int(n) for n in p.split()] for p in f"{_PLACES}, 7 3 9 8, 7 7 7 9".split(", ")])


def answers(net: nn.Module, boxes: Tensor = BOXES, **options: Any) -> tuple[Tensor, Report]:
    model = cutaway.VisionModel(
        net, cutaway.Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)), name="net"
    )
    report, found = Report(), {}
    with model.guard():
        x, fill = picture().to(model.dtype), FILL.to(model.dtype)
        for numbers, values in evaluate(model, x, boxes, fill, report=report, **options):
            found |= dict(zip(numbers.tolist(), values[None], strict=True))
    assert sorted(found) == list(range(len(boxes)))
    return torch.stack([found[i] for i in range(len(boxes))]), report


def whole(net: nn.Module, boxes: Tensor = BOXES) -> Tensor:
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    )
    out = []
    for top, left, bottom, right in boxes.tolist():
        x = picture()
        x[0, :, top:bottom, left:right] = FILL[:, top:bottom, left:right]
        with torch.no_grad():
            out.append(net((x - mean) / std)[0])
    return torch.stack(out)


class Shuffle(nn.Module):
    """ShuffleNet's channels, by view and transpose."""

    def forward(self, h: Tensor) -> Tensor:
        n, c, rows, cols = h.shape
        return h.view(n, 2, c // 2, rows, cols).transpose(1, 2).contiguous().view(n, c, rows, cols)


class Squeezed(nn.Module):
    """ConvNeXt's block: depthwise, layer norm and linear layers on channels last, layer scale, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.norm = nn.Conv2d(4, 4, 5, padding=2, groups=4), nn.LayerNorm(4)
        self.wide, self.narrow = nn.Linear(4, 8), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, h: Tensor) -> Tensor:
        g = self.norm(self.depth(h).permute(0, 2, 3, 1))
        return h + self.scale * self.narrow(F.gelu(self.wide(g))).permute(0, 3, 1, 2)


def conv(*args: Any, **options: Any) -> nn.Module:
    return nn.Conv2d(4, 6, *args, **options)


def residual(h: Tensor) -> Tensor:
    out = F.max_pool2d(h, 3, 1, 1)
    out += h
    return F.relu_(out)


KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "stride 2": conv(3, stride=2, padding=1),
    "stride 3, kernel 2": conv(2, stride=3),
    "1x1 with stride": conv(1, stride=2),
    "1x1 padded": conv(1, padding=1),
    "uneven": conv((3, 5), stride=(1, 2), padding=(2, 0)),
    "dilated": conv(3, dilation=3, padding=2),
    "same": conv((3, 5), padding="same"),
    "valid": conv(3, padding="valid"),
    "groups": nn.Conv2d(4, 8, 3, groups=4, bias=False),
    "batch norm": nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
    "max pooling": nn.MaxPool2d(2),
    "overlapping, ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "padded and dilated pooling": nn.MaxPool2d(3, 2, padding=1, dilation=2),
    "average pooling": nn.AvgPool2d(3, 2, padding=1),
    "average pooling, own divisor": lambda h: F.avg_pool2d(h, 2, divisor_override=3),
    "adaptive, whole factor": lambda h: F.adaptive_avg_pool2d(h, 13),
    "adaptive, same size": lambda h: F.adaptive_avg_pool2d(h, (None, None)),
    "activations": lambda h: F.silu(h) + torch.sigmoid(h).mul(2) - h.clamp(min=0) + F.relu6(h) + h.tanh() + h.exp(),
    "prelu": nn.PReLU(4),
    "in place": lambda h: h.clone().mul_(2).relu_().add_(1),
    "residual, in place": residual,
    "sums of two windows": lambda h: F.max_pool2d(h, 3, 1, 1) * h - F.avg_pool2d(h, 5, 1, 2),
    "constants": lambda h: (h * h.new_tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1) + 1) / 3,
    "concatenation": lambda h: torch.cat([h, F.max_pool2d(h, 5, 1, 2), h], 1),
    "parts of the channels": lambda h: torch.cat([*h.chunk(2, 1)[::-1], h[:, 1:3] * 2, h.split([1, 3], 1)[1]], 1),
    "every second place": lambda h: h[:, :, ::2, ::2],
    "padding": lambda h: F.pad(h, (1, 2, 0, 3), value=0.5),
    "nearest": lambda h: F.interpolate(h, scale_factor=2),
    "shuffle": Shuffle(),
    "channel shuffle": nn.ChannelShuffle(2),
    "reversed channels": lambda h: h.flip(1),
    "channels last": Squeezed(),
    "softmax over channels": lambda h: F.softmax(h, 1),
    "local response norm": nn.LocalResponseNorm(3, alpha=1.0),
    "dropout": nn.Sequential(nn.Dropout2d(), nn.Dropout(inplace=True), nn.Identity()),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_windows_equal_whole_pictures_and_stay_windows(name: str) -> None:
    net = Net(KNOWN[name])
    got, report = answers(net)
    assert report.engine.startswith("incremental"), report
    assert not set(report.dense) - {"flatten", "conv2d"}, report  # the head may cover its whole map
    torch.testing.assert_close(got, whole(net), rtol=1e-12, atol=1e-12)


class Gate(nn.Module):
    """Squeeze-excite: from here on everything changes."""

    def forward(self, h: Tensor) -> Tensor:
        return h * torch.sigmoid(h.mean((2, 3), keepdim=True))


UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "gate": Gate(),
    "spatial softmax": lambda h: F.softmax(h, -1),
    "group norm": nn.GroupNorm(2, 4),
    "transposed convolution": nn.ConvTranspose2d(4, 4, 2, stride=2),
    "uneven average": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
    "ceil average": nn.AvgPool2d(3, 2, ceil_mode=True),
    "reflection": nn.ReflectionPad2d(1),
    "bilinear": lambda h: F.interpolate(h, scale_factor=2, mode="bilinear"),
    "rolled": lambda h: h.roll(3, 2),
    "flipped": lambda h: h.flip(3),
    "transposed": lambda h: h.transpose(2, 3),
    "attention": lambda h: F.scaled_dot_product_attention(*[h.flatten(2).transpose(1, 2)] * 3).transpose(1, 2).reshape(h.shape),
    "einsum": lambda h: torch.einsum("nchw,nchw->nchw", h, h),
    "where": lambda h: torch.where(h > 0, h, 0.1 * h),
    "upper left part": lambda h: h[:, :, :20, :22],
    "crop": lambda h: h[:, :, 3:20, 2:22],
    "dense and window": lambda h: F.softmax(h, -1).add_(h),
    "window and dense": lambda h: h.clone().add_(F.softmax(h, -1)),
    "sum over one axis": lambda h: h + h.sum(2, keepdim=True),
    "global maximum": lambda h: h + h.amax((2, 3), keepdim=True),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_no_handler_knows_goes_on_dense_and_is_named(name: str) -> None:
    net = Net(UNKNOWN[name])
    got, report = answers(net)
    assert report.dense
    torch.testing.assert_close(got, whole(net), rtol=1e-12, atol=1e-12)


def part_in_place(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, :2].relu_()
    return h


def view_in_place(h: Tensor) -> Tensor:
    h = h.clone()
    h.permute(0, 2, 3, 1).mul_(2)
    return h


def parent_in_place(h: Tensor) -> Tensor:
    h = h.clone()
    part = h.chunk(2, 1)[0]
    h.relu_()
    return part + h[:, :2]


def item(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, :, 3] = 0
    return h


@pytest.mark.parametrize("function", [part_in_place, view_in_place, parent_in_place, item])
def test_changes_through_views_take_the_plain_way(function: Callable[[Tensor], Tensor]) -> None:
    net = Net(function)
    got, report = answers(net)
    assert report.engine == "plain"
    assert "cannot be followed" in report.why
    torch.testing.assert_close(got, whole(net), rtol=1e-12, atol=1e-12)


def test_weights_made_anew_in_each_pass_are_told_apart_by_their_numbers() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, h: Tensor) -> Tensor:
            w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(h, w / w.std((1, 2, 3), keepdim=True)) + F.conv2d(h, 2 * w)

    net = Net(Standardised(4, 6, 3))
    got, report = answers(net, batch=2)
    assert report.engine == "incremental"
    torch.testing.assert_close(got, whole(net), rtol=1e-12, atol=1e-12)


def test_hundreds_of_boxes_in_any_batch_give_the_same_and_are_compared_with_whole_pictures() -> None:
    net = Net(nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True)))
    boxes = torch.tensor([[t, l, t + 4, l + 4] for t in range(0, 23, 2) for l in range(0, 23, 2)])  # noqa: E741
    want, picked = whole(net, boxes), [0, 71, 143]
    for batch in (None, 1, 7, 500):
        got, report = answers(net, boxes, batch=batch)
        assert report.deviation is not None
        assert report.deviation < 1e-13
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    alone, report = answers(net, boxes[picked])
    assert report.deviation is not None
    torch.testing.assert_close(alone, want[picked], rtol=1e-12, atol=1e-12)


def test_a_wrong_handler_is_found_at_run_time_and_the_plain_way_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cutaway.core import window_operators as operators
    from cutaway.core.operators import Family

    right = operators._HANDLERS[Family.RELU]

    def wrong(call: Any) -> Any:
        out = right(call)
        out.window = out.window * 1.01
        return out

    monkeypatch.setitem(operators._HANDLERS, Family.RELU, wrong)  # type: ignore[arg-type]
    net = Net(nn.ReLU())
    boxes = torch.tensor([[t, l, t + 4, l + 4] for t in range(0, 23, 2) for l in range(0, 23, 2)])  # noqa: E741
    got, report = answers(net, boxes)
    assert report.engine == "plain"
    assert "differ" in report.why
    torch.testing.assert_close(got, whole(net, boxes), rtol=1e-12, atol=1e-12)


def test_layers_are_read_as_whole_maps() -> None:
    net = Net(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)))
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="net")
    names = ("stem", "function.0", "function.2")
    with model.guard():
        pairs: Iterator[Any] = evaluate(model, picture(), BOXES, FILL, layers=names)
        one = {
            int(n): {k: v[i] for k, v in values.items()}
            for numbers, values in pairs
            for i, n in enumerate(numbers)
        }
        plain = evaluate(model, picture(), BOXES, FILL, layers=names, engine="plain")
        two = {
            int(n): {k: v[i] for k, v in values.items()}
            for numbers, values in plain
            for i, n in enumerate(numbers)
        }
    for i in two:
        for key in two[i]:
            torch.testing.assert_close(one[i][key], two[i][key], rtol=1e-12, atol=1e-12)


def test_where_little_is_saved_whole_pictures_are_run_and_the_arithmetic_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(windows, "WORTH", 1.2)
    boxes = torch.tensor([[t, l, t + 4, l + 4] for t in range(0, 23, 2) for l in range(0, 23, 2)])  # noqa: E741
    got, report = answers(Net(nn.Sequential(Gate(), conv(7))), boxes)
    assert report.engine == "plain"
    assert report.limit is not None
    assert report.limit < 1.2
    assert "limit" in report.why
    torch.testing.assert_close(got, whole(Net(nn.Sequential(Gate(), conv(7))), boxes), rtol=1e-12, atol=1e-12)


def test_any_shape_is_replaced_through_the_box_around_it() -> None:
    generator = torch.Generator().manual_seed(5)
    masks = torch.zeros(6, SIZE, SIZE, dtype=torch.bool)
    for i, (top, left, side) in enumerate([(0, 0, 5), (20, 21, 5), (3, 9, 7), (8, 8, 1), (2, 2, 9)]):
        masks[i, top : top + side, left : left + side] = torch.rand(side, side, generator=generator) > 0.4
    masks[3, 8, 8] = True
    net = Net(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    got, report = answers(net, masks)
    assert report.engine == "incremental"
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    )
    x = torch.stack([torch.where(m, FILL, picture()[0]) for m in masks])
    with torch.no_grad():
        want = net((x - mean) / std)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(answers(net, masks, engine="plain")[0], want, rtol=1e-12, atol=1e-12)


def test_a_memory_answers_one_window_at_a_time_and_notices_another_picture_or_weight() -> None:
    net = Net(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="net")
    memory, passes = windows.Memory(), []
    handle = net.stem.register_forward_pre_hook(lambda module, args: passes.append(tuple(args[0].shape)))

    def ask(x: Tensor, kept: windows.Memory | None) -> Tensor:
        with model.guard():
            ((_, values),) = evaluate(model, x, BOXES[4:5], FILL, memory=kept)
        return values[None]

    first = ask(picture(), memory)
    clean = memory._clean
    torch.testing.assert_close(ask(picture(), memory), first, rtol=0, atol=0)
    assert memory._clean is clean
    other = ask(picture().flip(2), memory)
    assert memory._clean is not clean
    torch.testing.assert_close(other, ask(picture().flip(2), None), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        net.stem.weight.mul_(2)
    doubled = ask(picture().flip(2), memory)
    torch.testing.assert_close(doubled, ask(picture().flip(2), None), rtol=1e-12, atol=1e-12)
    handle.remove()
    # a picture's first window goes twice beside itself, alone, and whole; without a memory one whole picture goes
    assert len(passes) == 12


@pytest.mark.parametrize("late", [False, True])
def test_rows_last_are_asked_for_by_view_and_windows_go_on(late: bool) -> None:
    class Tutorial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(4, 6, 5 if late else 1, stride=4), nn.LazyLinear(75)

        def forward(self, h: Tensor) -> Tensor:
            h = self.conv(h).relu()
            if late:
                h = h - h.mean((1, 2, 3), keepdim=True)  # everything changes: whole maps from here
            return self.fc(h.view(h.size(0), -1)).view(-1, 3, 5, 5)

    net = Net(Tutorial())
    got, report = answers(net)
    assert report.engine == "incremental"
    assert ("sub" in report.dense) == late
    torch.testing.assert_close(got, whole(net), rtol=1e-12, atol=1e-12)


def test_fast_is_near_says_how_near_and_leaves_the_network_alone() -> None:
    boxes = torch.tensor([[t, l, t + 4, l + 4] for t in range(0, 23, 2) for l in range(0, 23, 2)])  # noqa: E741
    for function in (
        nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        Squeezed(),
        Gate(),
    ):
        want = whole(Net(function), boxes)
        net = Net(function).float()
        before = copy.deepcopy(net.state_dict())
        for engine in ("auto", "plain"):
            got, report = answers(net, boxes, precision="fast", engine=engine)
            off = float((got - want).abs().max()) / float(want.abs().max())
            assert report.deviation is not None
            assert report.deviation > 1e-5
            assert off < 0.05
            assert got.dtype == torch.float32
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        exact, report = answers(net, boxes)
        torch.testing.assert_close(exact.double(), want, rtol=0, atol=1e-5 * float(want.abs().max()))


def test_numbers_that_differ_in_each_pass_do_not_pile_up() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.passes = 0

        def forward(self, h: Tensor) -> Tensor:
            self.passes += 1
            return h * h.new_full((1, 4, 1, 1), 1 + 1e-14 * self.passes)

    net, memory = Net(Noisy()), windows.Memory()
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="net")
    with model.guard():
        for _ in range(12):
            list(evaluate(model, picture(), BOXES[4:6], FILL, memory=memory))

    def entries(clean: Any) -> int:
        kept = [value for known in clean._made.values() for _, value in known]
        return len(kept) + sum(entries(k) for k in kept)

    assert memory._clean is not None
    assert entries(memory._clean) < 40
