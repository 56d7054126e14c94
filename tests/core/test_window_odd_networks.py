"""Networks that write into views and scratch memory, hold odd shapes or look at the batch: right, or refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway.core import windows
from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.windows import Report, evaluate

SIZE = 18
BOXES = torch.tensor([[0, 0, 3, 3], [1, 2, 4, 5], [8, 7, 11, 10], [12, 4, 15, 7], [5, 6, 6, 7]])


@pytest.fixture(autouse=True)
def _always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WORTH", 0.0)
    monkeypatch.setattr(windows, "LITTLE", 0.0)


class Net(nn.Module):
    """A convolution, the operator in question, a convolution that sees it."""

    def __init__(self, function: Callable[[Tensor], Tensor], stem: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        weights = [
            torch.rand(s, generator=generator, dtype=torch.float64) - 0.4
            for s in ((4, 3, 3, 3), (5, 4, 3, 3))
        ]
        self.first, self.last = (nn.Parameter(w) for w in weights)
        self.function, self.stem = function, stem

    def forward(self, x: Tensor) -> Tensor:
        if not self.stem:
            return self.function(x).flatten(1)
        return F.conv2d(self.function(F.conv2d(x, self.first, padding=1)), self.last).flatten(1)


def pictures(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, fill = torch.rand(2, 3, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
    return x[None], fill


def answers(net: nn.Module, boxes: Tensor = BOXES, **options: object) -> tuple[Tensor, Report]:
    model, report = cutaway.VisionModel(net, cutaway.Preprocess(), name="net"), Report()
    x, fill = pictures(model.dtype)
    found: dict[int, Tensor] = {}
    with model.guard():
        for numbers, values in evaluate(model, x, boxes, fill, report=report, **options):  # type: ignore[arg-type]
            found |= dict(zip(numbers.tolist(), values[None], strict=True))
    return torch.stack([found[i] for i in range(len(boxes))]), report


def whole(net: nn.Module, boxes: Tensor = BOXES) -> Tensor:
    out = []
    for top, left, bottom, right in boxes.tolist():
        x, fill = pictures(next(net.parameters()).dtype)
        x = x.clone()
        x[0, :, top:bottom, left:right] = fill[:, top:bottom, left:right]
        with torch.no_grad():
            out.append(net(x)[0])
    return torch.stack(out)


def written(view: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Doubles a view of the activation, and goes on with the activation."""

    def function(h: Tensor) -> Tensor:
        h = h.clone()
        view(h).mul_(2)
        return h

    return function


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "one channel": lambda h: h[:, 0],
    "select": lambda h: h.select(1, 1),
    "unbind": lambda h: h.unbind(1)[2],
    "rows": lambda h: h[:, :, :5],
    "flatten": lambda h: h.flatten(2),
    "new axis": lambda h: h.unsqueeze(1),
    "data": lambda h: h.data,
    "transposed": lambda h: h.mT,
    "same type": lambda h: h.to(h.dtype),
    "a channel of a part": lambda h: h.chunk(2, 1)[0][:, 1],
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_what_is_written_through_a_view_counts(name: str) -> None:
    net = Net(written(VIEWS[name]))
    torch.testing.assert_close(answers(net)[0], whole(net), rtol=1e-12, atol=1e-12)


def test_what_is_written_is_seen_through_a_view() -> None:
    def function(h: Tensor) -> Tensor:
        h = h.clone()
        part = h[:, 0]
        h.mul_(2)
        return h + part[:, None]

    net = Net(function)
    torch.testing.assert_close(answers(net)[0], whole(net), rtol=1e-12, atol=1e-12)


def copied(h: Tensor) -> Tensor:
    """Aliases where rows are last in memory, a copy where channels are."""
    h = h * 1
    other = h.contiguous()
    other.mul_(2)
    return h + other


def test_the_plain_way_does_not_depend_on_the_layout_in_memory() -> None:
    net = Net(copied)
    torch.testing.assert_close(answers(net, engine="plain")[0], whole(net), rtol=1e-12, atol=1e-12)


def scratch(h: Tensor) -> Tensor:
    """One tensor that holds 1, then 2."""
    held = h.new_ones(1)
    out = h * held
    held += 1
    return out - 3 * (h * held)


def into(h: Tensor) -> Tensor:
    held = torch.empty_like(h)
    torch.exp(h, out=held)
    return h + held


def map_of_powers(h: Tensor) -> Tensor:
    return h.abs() ** torch.linspace(1, 2, SIZE * SIZE, dtype=h.dtype).view(1, 1, SIZE, SIZE)


@pytest.mark.parametrize("function", [scratch, into, map_of_powers])
@pytest.mark.parametrize("stem", [True, False])
def test_scratch_memory_and_maps_of_arguments(function: Callable[[Tensor], Tensor], stem: bool) -> None:
    net, single = Net(function, stem), torch.tensor([[5, 6, 6, 7], [17, 17, 18, 18], [0, 0, 1, 1]])
    for boxes in (BOXES, single):
        torch.testing.assert_close(answers(net, boxes)[0], whole(net, boxes), rtol=1e-12, atol=1e-12)


def nobody(h: Tensor) -> Tensor:
    """A detector's second stage, with nothing detected."""
    return h + F.relu(F.linear(h.new_zeros(0, 4), h.new_ones(3, 4))).sum()


def temperature(h: Tensor) -> Tensor:
    return h * h.new_tensor(0.3).exp()


def indices(h: Tensor) -> Tensor:
    return F.max_pool2d_with_indices(h, 2)[0]


@pytest.mark.parametrize("function", [nobody, temperature, indices])
def test_empty_batches_single_numbers_and_pairs_stay_on_windows(function: Callable[[Tensor], Tensor]) -> None:
    net = Net(function)
    got, report = answers(net)
    assert report.engine == "incremental", report
    torch.testing.assert_close(got, whole(net), rtol=1e-12, atol=1e-12)


def test_one_weight_cut_into_groups_in_two_ways() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.tied = nn.Conv2d(3, 4, 1), nn.Parameter(torch.rand(4, 2, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return (F.conv2d(h, self.tied, groups=2) + F.conv2d(h[:, :2], self.tied)).flatten(1)

    net, boxes = Tied().eval(), BOXES.repeat(3, 1)
    for engine, said in (("auto", "incremental"), ("plain", "plain")):
        got, report = answers(net, boxes, engine=engine)
        assert report.engine == said
        torch.testing.assert_close(got, whole(net, boxes), rtol=1e-4, atol=1e-5)


BATCH: dict[str, Callable[[Tensor], Tensor]] = {
    "its size": lambda h: h / h.shape[0],
    "its mean": lambda h: h - h.mean(),
    "batch norm": lambda h: F.batch_norm(h, None, None, training=True),
}  # fmt: skip


@pytest.mark.parametrize("name", BATCH)
@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_what_depends_on_the_batch_is_refused(name: str, engine: str, count: int) -> None:
    with pytest.raises(MethodRefusedError, match="depends on the other pictures"):
        answers(Net(BATCH[name]), BOXES[:count], engine=engine)


@pytest.mark.parametrize("shape", [(2, 10, 10), (2, 20, SIZE), (5, 4)])
def test_masks_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="masks of shape"):
        answers(Net(nn.Identity()), torch.ones(shape, dtype=torch.bool))


def test_two_threads_get_what_each_gets_alone_and_leave_the_network_in_training() -> None:
    torch.manual_seed(0)

    class Waits(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            time.sleep(0.001)  # the other thread's turn
            return h

    first = nn.Conv2d(3, 8, 3), nn.ReLU(), Waits(), nn.Dropout(0.5)
    net = nn.Sequential(*first, nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    model = cutaway.VisionModel(net.double().train(), cutaway.Preprocess(), name="net")
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    jobs = [("rise", {"samples": 600}), ("unit_ablation", {"layer": "0"})] * 2
    alone = [model.explain(x[i % 2], name, 1, **options).values for i, (name, options) in enumerate(jobs)]
    found: dict[int, np.ndarray] = {}
    state = torch.get_rng_state()

    def work(i: int) -> None:
        found[i] = model.explain(x[i % 2], jobs[i][0], 1, **jobs[i][1]).values  # type: ignore[arg-type]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, values in enumerate(alone):
        np.testing.assert_allclose(found[i], values, rtol=1e-9, atol=1e-12)
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)
