"""Answers on pictures with one box replaced, against those pictures built by hand."""

import pytest
import torch
from torch import nn

from cutaway.core.errors import UsageError
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.core.windows import evaluate

PREPROCESS = Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


class Reshaping(nn.Module):
    """Reshapes by `.view`, which only takes memory with columns last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 12 * 10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        return self.fc(x.view(len(x), -1))


def sequential() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def random_boxes(count: int, height: int, width: int) -> torch.Tensor:
    rows = torch.randint(0, height + 1, (count, 2)).sort(1).values
    cols = torch.randint(0, width + 1, (count, 2)).sort(1).values
    return torch.stack([rows[:, 0], cols[:, 0], rows[:, 1], cols[:, 1]], 1)


def collected(model: VisionModel, x: torch.Tensor, boxes: torch.Tensor, fill: torch.Tensor, **how: object):
    out: dict[object, torch.Tensor] = {}
    met: list[int] = []
    for numbers, values in evaluate(model, x, boxes, fill, **how):  # type: ignore[arg-type]
        met += numbers.tolist()
        for key, value in values.items():
            out.setdefault(key, torch.full((len(boxes), *value.shape[1:]), torch.nan, dtype=value.dtype))
            out[key][numbers] = value
    assert sorted(met) == list(range(len(boxes)))
    return out


def by_hand(model: VisionModel, x: torch.Tensor, box: list[int], fill: torch.Tensor) -> torch.Tensor:
    """Pixel by pixel, no slicing."""
    picture = x.clone()
    top, left, bottom, right = box
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            if top <= i < bottom and left <= j < right:
                picture[0, :, i, j] = fill[:, i, j]
    return picture


@pytest.mark.parametrize("make", [sequential, Reshaping])
@pytest.mark.parametrize("batch", [1, 7, None])
def test_answers_are_those_of_the_pictures_built_by_hand(make, batch) -> None:
    model = VisionModel(make().double().eval(), PREPROCESS, name="net")
    x, fill = torch.rand(1, 3, 12, 10, dtype=torch.float64), torch.rand(3, 12, 10, dtype=torch.float64)
    boxes = random_boxes(20, 12, 10)
    found = collected(model, x, boxes, fill, batch=batch)[None]
    for box, got in zip(boxes.tolist(), found, strict=True):
        expected = model.network(model.preprocess.normalise(by_hand(model, x, box, fill)))[0]
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_activations_come_after_their_relu_and_the_pass_may_end_there() -> None:
    network = sequential().double().eval()
    model = VisionModel(network, PREPROCESS, name="net")
    x, fill = torch.rand(1, 3, 12, 10, dtype=torch.float64), torch.rand(3, 12, 10, dtype=torch.float64)
    boxes = random_boxes(9, 12, 10)
    both = collected(model, x, boxes, fill, layers=("0", "3"), batch=4)
    alone = collected(model, x, boxes, fill, layers=("3",), output=False, batch=4)
    assert set(both) == {None, "0", "3"}
    calls: list[int] = []
    with_count = network[7].register_forward_hook(lambda *_: calls.append(1))
    list(evaluate(model, x, boxes, fill, layers=("3",), output=False))
    with_count.remove()
    assert not calls
    for i, box in enumerate(boxes.tolist()):
        picture = model.preprocess.normalise(by_hand(model, x, box, fill))
        torch.testing.assert_close(both["0"][i], network[:2](picture)[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(both["3"][i], network[:5](picture)[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone["3"][i], both["3"][i], rtol=1e-12, atol=1e-12)


def test_float32_does_not_depend_on_batch_or_order() -> None:
    model = VisionModel(sequential().eval(), PREPROCESS, name="net")
    x, fill = torch.rand(1, 3, 12, 10), torch.rand(3, 12, 10)
    boxes = random_boxes(33, 12, 10)
    one = collected(model, x, boxes, fill, batch=1)[None]
    order = torch.randperm(33)
    mixed = collected(model, x, boxes[order], fill, batch=5)[None]
    torch.testing.assert_close(mixed, one[order], rtol=1e-5, atol=1e-6)


def test_picture_and_fill_stay_and_no_graph_is_kept() -> None:
    model = VisionModel(sequential().eval(), PREPROCESS, name="net")
    x, fill = torch.rand(1, 3, 12, 10, requires_grad=True), torch.rand(3, 12, 10)
    before = x.detach().clone(), fill.clone()
    steps = evaluate(model, x, torch.tensor([[0, 0, 12, 10]]), fill)
    _, values = next(steps)
    assert torch.is_grad_enabled()  # while the caller has its turn
    assert not values[None].requires_grad
    assert torch.equal(x.detach(), before[0])
    assert torch.equal(fill, before[1])
    assert collected(model, x, torch.zeros(0, 4, dtype=torch.int64), fill) == {}


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([[0, 0, 13, 4]], r"box \[0, 0, 13, 4\] on a picture of 12x10"),
        ([[2, 0, 1, 4]], r"box \[2, 0, 1, 4\]"),
        ([[0, -1, 1, 4]], r"box \[0, -1, 1, 4\]"),
        ([[0.0, 0.0, 1.0, 1.0]], "whole numbers"),
        ([[0, 0, 1]], r"\(n, 4\)"),
    ],
)
def test_bad_boxes_are_refused(boxes, said) -> None:
    model = VisionModel(sequential().eval(), PREPROCESS, name="net")
    with pytest.raises(UsageError, match=said):
        list(evaluate(model, torch.rand(1, 3, 12, 10), torch.tensor(boxes), torch.rand(3, 12, 10)))


def test_other_misfits_are_refused() -> None:
    model = VisionModel(sequential().eval(), PREPROCESS, name="net")
    x, boxes, fill = torch.rand(1, 3, 12, 10), torch.zeros(1, 4, dtype=torch.int64), torch.rand(3, 12, 10)
    with pytest.raises(UsageError, match="one picture"):
        list(evaluate(model, x.repeat(2, 1, 1, 1), boxes, fill))
    with pytest.raises(UsageError, match="a fill of shape"):
        list(evaluate(model, x, boxes, fill[:, :5]))
    with pytest.raises(UsageError, match="neither"):
        list(evaluate(model, x, boxes, fill, output=False))
    with pytest.raises(UsageError, match="batch=0"):
        list(evaluate(model, x, boxes, fill, batch=0))
