"""Which windows go together: what is foretold of them comes true, and it pays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import cutaway
from cutaway.core import window_cost, windows
from cutaway.core.packed import Packed
from cutaway.core.window_asked import Asked
from cutaway.core.window_cost import Cost
from cutaway.core.window_order import Batch, Scouts
from cutaway.core.window_tensor import Changed, Clean

SIZE = 64
BOXES = torch.tensor([[t, l, t + 6, l + 9] for t in range(0, 59, 5) for l in range(0, 56, 11)])  # noqa: E741


class Branches(nn.Module):
    """Two paths that see unequally far, joined side by side and by a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.near, self.far = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.last = nn.Conv2d(16, 6, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x + self.near(x), self.far(x)], 1)
        return self.last(F.relu(x)).mean((2, 3))


def asked(net: nn.Module, boxes: Tensor = BOXES) -> Asked:
    model = cutaway.VisionModel(net.double().eval(), cutaway.Preprocess(), name="net")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    fill = torch.rand(3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return Asked(model, x, fill, (), True, boxes, None, Packed(None))


class Counted(TorchFunctionMode):
    """Multiply-adds of convolutions as they run, and the largest activation in numbers, counted from the tensors alone."""

    multiplied = 0
    largest = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Changed):
            self.largest = max(self.largest, out.window.numel())
        if func is torch.conv2d:
            done = out.window if isinstance(out, Changed) else out
            self.multiplied += done.numel() * args[1][0].numel()
        return out


def scouted(ask: Asked, clean: Clean) -> tuple[Scouts, Cost]:
    scouts, cost = Scouts(ask.boxes), Cost()
    ask.run(ask.windows(clean, torch.zeros(2, dtype=torch.int64), scouts), cost=cost)
    return scouts, cost


@pytest.mark.parametrize("most", [4, 1000])
@pytest.mark.parametrize("prepared", [0.0, 1.0])
def test_the_work_foretold_is_the_work_done(
    most: int, prepared: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutaway.core.window_order.PREPARED", prepared)
    ask = asked(Branches())
    clean = Clean(ask.x, 2, 3)
    with ask.model.guard():
        scouts, cost = scouted(ask, clean)
        plan = scouts.batches(cost, most, dispatch=0.0)
        ask.run(ask.windows(clean, torch.tensor([0])))
        for batch in plan:
            with Counted() as met:
                ask.run(ask.windows(clean, batch.filled))
            # part of a group may stay smaller than the group
            floor = 0.0 if most == 4 else 1 - 1e-9
            assert floor <= met.multiplied / (batch.size * batch.work.multiplied) <= 1 + 1e-9
            assert floor <= met.largest / (batch.size * batch.work.numbers) <= 1 + 1e-9
        with Counted() as met:
            ask.run(ask.x)
        assert met.multiplied == pytest.approx(cost.picture.multiplied)
    assert sorted(n for batch in plan for n in batch.numbers.tolist()) == list(range(len(BOXES)))
    assert max(len(batch.numbers) for batch in plan) <= most


def test_groups_save_work_and_are_few_when_each_is_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = asked(Branches())
    with ask.model.guard():
        scouts, cost = scouted(ask, Clean(ask.x, 2, 3))

    def spent(plan: list[Batch]) -> float:
        return sum(len(batch.numbers) * batch.work.multiplied for batch in plan)

    alone = sum(
        cost.of(
            torch.tensor([float(s[r]) for s in cost.down]).numpy(),
            torch.tensor([float(s[c]) for s in cost.across]).numpy(),
        ).multiplied
        for r, c in zip(scouts.rows, scouts.cols, strict=True)
    )
    monkeypatch.setattr("cutaway.core.window_order.PREPARED", 1e9)
    together = scouts.batches(cost, 1000, dispatch=0.0)
    monkeypatch.setattr("cutaway.core.window_order.PREPARED", 0.0)
    apart = scouts.batches(cost, 1000, dispatch=0.0)
    assert len(together) == 1 < len(apart)
    assert alone <= spent(apart) < 0.95 * spent(together)
    dear = scouts.batches(cost, 1000, dispatch=1e12)
    assert len(dear) == 1


def test_early_answers_come_from_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.core.window_order.PREPARED", 0.0)
    ask = asked(Branches())
    with ask.model.guard():
        scouts, cost = scouted(ask, Clean(ask.x, 2, 3))
    plan = scouts.batches(cost, 3, dispatch=0.0)
    kinds = [(batch.work, batch.size) for batch in plan]
    groups = len({work for work, _ in kinds})
    assert groups > 1
    assert len({work for work, _ in kinds[:groups]}) == groups


def test_batches_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 600_000
    monkeypatch.setattr(windows, "BUDGET", budget)
    monkeypatch.setattr(windows, "WORTH", 0.0)
    monkeypatch.setattr(windows, "LITTLE", 0.0)
    ask = asked(Branches())
    sizes = []
    with ask.model.guard(), Counted() as met:
        for numbers, _ in windows.evaluate(ask.model, ask.x, BOXES, ask.fill):
            sizes.append(len(numbers))
    assert max(sizes) > 1
    assert 3 * 8 * met.largest <= budget
    monkeypatch.setattr(windows, "BUDGET", 4 * budget)
    with ask.model.guard():
        larger = [len(numbers) for numbers, _ in windows.evaluate(ask.model, ask.x, BOXES, ask.fill)]
    assert max(larger) > max(sizes)


def test_a_small_network_is_run_on_whole_pictures_though_its_arithmetic_would_gain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask = asked(Branches())
    report = windows.Report()
    with ask.model.guard():
        list(windows.evaluate(ask.model, ask.x, BOXES, ask.fill, report=report))
    assert report.engine == "plain"
    assert report.limit is None
    assert "too little work" in report.why
    monkeypatch.setattr(windows, "LITTLE", 0.0)
    with ask.model.guard():
        list(windows.evaluate(ask.model, ask.x, BOXES, ask.fill, report=report))
    assert report.engine == "plain"
    assert report.limit is not None
    assert report.limit > 1.5
    assert "save too little" in report.why
    monkeypatch.setitem(window_cost._DISPATCH, "cpu", 0.0)
    with ask.model.guard():
        list(windows.evaluate(ask.model, ask.x, BOXES, ask.fill, report=report))
    assert report.engine == "incremental"


def test_weights_laid_out_once_follow_a_change_of_the_weights() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(8, 16, 3, padding=1), torch.rand(1, 8, 7, 7)
    packed = Packed()
    for change in (1.0, 2.0, -0.5):
        with torch.no_grad(), packed:
            conv.weight.mul_(change)
            made = conv(x)
        want = F.conv2d(x, conv.weight, conv.bias, padding=1)
        torch.testing.assert_close(made, want.detach(), rtol=1e-5, atol=1e-6)


def test_one_window_alone_is_followed_only_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = asked(Branches())
    answers = {}
    for dispatch, engine in ((1e12, "plain"), (0.0, "incremental")):
        monkeypatch.setitem(window_cost._DISPATCH, "cpu", dispatch)
        memory = windows.Memory()
        for box in (BOXES[5:6], BOXES[30:31]):
            report = windows.Report()
            with ask.model.guard():
                ((_, values),) = windows.evaluate(
                    ask.model, ask.x, box, ask.fill, memory=memory, report=report
                )
            assert report.engine == engine
            answers[engine, int(box[0, 0])] = values[None]
    for top in {int(box) for box in BOXES[[5, 30], 0]}:
        torch.testing.assert_close(answers["plain", top], answers["incremental", top], rtol=1e-12, atol=1e-12)


def test_boxes_that_cover_nearly_everything_are_run_whole_at_the_price_of_whole_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No window goes ahead; two pictures go alone, for what depends on the others of a batch."""
    monkeypatch.setitem(window_cost._DISPATCH, "cpu", 1.0)
    net, wide = Branches(), torch.tensor([[0, 0, SIZE, SIZE - 1 - i % 5] for i in range(40)])
    ask = asked(net, wide)
    seen: list[int] = []
    handle = net.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    report, got = windows.Report(), {}
    with ask.model.guard():
        for numbers, values in windows.evaluate(ask.model, ask.x, wide, ask.fill, report=report, batch=8):
            got |= dict(zip(numbers.tolist(), values[None], strict=True))
    handle.remove()
    assert report.engine == "plain"
    assert sorted(seen) == [1, 1, 8, 8, 8, 8, 8]
    with torch.no_grad():
        want = ask.model(ask.pictures(torch.arange(40)))
    torch.testing.assert_close(torch.stack([got[i] for i in range(40)]), want, rtol=1e-12, atol=1e-12)
