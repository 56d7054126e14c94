"""The engine of ascent and what it draws, against closed forms, single runs and a picture's own arithmetic."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError
from cutaway.core.progress import Enough, Progress, finish
from cutaway.core.run import explain
from cutaway.core.target import score
from cutaway.methods import METHODS
from cutaway.methods.synthesis import wanted
from cutaway.methods.synthesis.ascent import Ascent, Stride
from cutaway.methods.synthesis.canvas import Fourier, Input, Pixels
from cutaway.methods.synthesis.shaking import STILL, Movement, Shake, shifted
from cutaway.methods.synthesis.variety import likeness

FEATURE = METHODS["feature_visualization"]


def small(*, dead: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).double()  # fmt: skip
    if dead:
        with torch.no_grad():
            net[3].bias[:2] = -0.8
    return net


def model(net: nn.Module, size: int = 24) -> cutaway.VisionModel:
    prep = cutaway.Preprocess(crop=size, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    return cutaway.VisionModel(net, prep, name="small")


def drawn(m: cutaway.VisionModel, target: Any, seed: int = 0, watch: Any = None, **options: Any) -> list[Any]:
    return list(finish(explain(m, FEATURE, None, target, options, seed=seed), watch))


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_quadratic_is_climbed_to_its_closed_form() -> None:
    w, m = torch.randn(1, 3, 4, 4).double(), model(nn.Conv2d(3, 1, 4).double(), 4)
    ascent = Ascent(
        lambda u: (w * u).flatten(1).sum(1) - 2 * u.square().flatten(1).sum(1),
        Pixels(m, (4, 4)),
        Stride("gradient", 0.1),
        200,
    )
    end = finish(ascent.run(torch.zeros(1, 3, 4, 4).double(), random()))
    torch.testing.assert_close(end.numbers, w / 4, rtol=0, atol=1e-12)
    assert end.values[-1].item() == pytest.approx(w.square().sum().item() / 8, rel=1e-12)


@pytest.mark.parametrize("rule", ["adam", "momentum", "mean"])
def test_each_rule_is_its_formula(rule: Any) -> None:
    w = torch.randn(2, 3, 2, 2).double()
    m = model(nn.Conv2d(3, 1, 2).double(), 2)
    ascent = Ascent(lambda u: (w * u.sin()).flatten(1).sum(1), Pixels(m, (2, 2)), Stride(rule, 0.1, 0.8), 3)
    got = finish(ascent.run(torch.zeros(2, 3, 2, 2).double(), random())).numbers.numpy()
    x, v, s = np.zeros((2, 3, 2, 2)), np.zeros((2, 3, 2, 2)), np.zeros((2, 3, 2, 2))
    if rule == "adam":
        torch_x = torch.zeros(2, 3, 2, 2).double().requires_grad_()
        optimiser = torch.optim.Adam([torch_x], lr=0.1, maximize=True)
        in_its_units = w / w.abs().amax((1, 2, 3), keepdim=True)
        for _ in range(3):
            optimiser.zero_grad()
            (in_its_units * torch_x.sin()).sum().backward()
            optimiser.step()
        x = torch_x.detach().numpy()
    for _ in range(3 if rule != "adam" else 0):
        g = w.numpy() * np.cos(x)
        v = 0.8 * v + g
        s = g / np.abs(g).mean((1, 2, 3), keepdims=True)
        x = x + 0.1 * (v if rule == "momentum" else s)
    np.testing.assert_allclose(got, x, rtol=0, atol=1e-12)


def test_a_batch_is_the_single_runs_also_where_a_unit_is_dead() -> None:
    m = model(small(dead=True))
    channels = torch.tensor([5, 0, 2, 1])
    together = drawn(m, cutaway.channel("4", channels), steps=20, space="fourier")
    for got, k in zip(together, channels.tolist(), strict=True):
        (alone,) = drawn(m, cutaway.channel("4", k), steps=20, space="fourier")
        np.testing.assert_allclose(got.values, alone.values, rtol=0, atol=1e-8)
        assert got.evidence["dead steps"] == alone.evidence["dead steps"]
        assert got.target == f"4:{k}"
    assert together[1].evidence["dead steps"] > 0 == together[0].evidence["dead steps"]
    classes = drawn(m, torch.tensor([3, 1]), steps=20)
    np.testing.assert_allclose(classes[1].values, drawn(m, 1, steps=20)[0].values, rtol=0, atol=1e-8)


def test_draws_beside_a_dead_unit_stay_different() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
    torch.manual_seed(0)
    shape, other = torch.randn(3, 3, 3), torch.randn(3, 3, 3)
    with torch.no_grad():
        net[0].weight.copy_(torch.stack([shape, shape + 0.3 * other, 1e-3 * shape]))
        net[0].bias.copy_(torch.tensor([0.5, -2.5, -50.0]))
    m = cutaway.VisionModel(net, cutaway.Preprocess(crop=24), name="shut")
    options = {"steps": 40, "draws": 2, "diversity": 5.0}
    (alone,) = drawn(m, cutaway.channel("1", 0), **options)
    beside, dead = drawn(m, cutaway.channel("1", torch.tensor([0, 2])), **options)
    assert dead.evidence["dead steps"] > 0
    np.testing.assert_allclose(beside.panels["draws"].values, alone.panels["draws"].values, rtol=0, atol=1e-5)


def test_a_value_that_rounding_holds_is_not_dead() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].bias.zero_()  # from no picture at all every gate is shut, and open after one step
        net[4].weight.mul_(0.01)
        net[4].bias.fill_(1000)  # neighbours in float32 are 0.00006 apart
    method = METHODS["class_visualization"]
    (result,) = finish(explain(model(net), method, None, 1, {"steps": 8}))
    assert result.evidence["dead steps"] < 4


def test_a_dead_target_among_others_is_said_wherever_portions_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted, "LEAK", 0.0)
    channels = cutaway.channel("4", torch.tensor([1, 5, 1]))
    found = []
    for held in (wanted.HELD, 1.0):
        monkeypatch.setattr(wanted, "HELD", held)
        found.append(drawn(model(small(dead=True)), channels, steps=3, space="fourier"))
        with pytest.raises(MethodRefusedError, match="gradient is exactly zero at the start"):
            drawn(
                model(small(dead=True)), cutaway.channel("4", torch.tensor([1, 1])), steps=3, space="fourier"
            )
    for together, apart in zip(*found, strict=True):
        np.testing.assert_allclose(together.values, apart.values, rtol=0, atol=1e-8)
        assert together.evidence["dead steps"] == apart.evidence["dead steps"]
        assert together.notes == apart.notes
    assert [r.evidence["dead steps"] for r in found[0]] == [3, 0, 3]


def test_pictures_that_followed_a_leak_are_kept_beside_one_that_nothing_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = small()
    with torch.no_grad():
        net[3].bias[1] = -50  # only a leak reaches it
        net[3].weight[6], net[3].bias[6] = 0, -1  # nothing does
    monkeypatch.setattr(wanted, "HELD", 1.0)
    shut, still = drawn(model(net), cutaway.channel("4", torch.tensor([1, 6])), steps=3, space="fourier")
    assert shut.evidence["dead steps"] == still.evidence["dead steps"] == 3
    assert np.abs(shut.values - still.values).max() > 1e-3


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    m, target = model(small()), cutaway.channel("4", torch.arange(5))
    whole = drawn(m, target, steps=6, draws=2)
    for most in (1, 4):
        monkeypatch.setattr(wanted, "MOST", most)
        for a, b in zip(whole, drawn(m, target, steps=6, draws=2), strict=True):
            np.testing.assert_allclose(a.values, b.values, rtol=0, atol=1e-10)


def test_the_seed_decides_the_bits() -> None:
    m = model(small().float())
    one, again, other = (drawn(m, cutaway.channel("4", 3), seed=s, steps=9)[0].values for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01


def test_a_neurons_canvas_gives_the_neuron_of_the_whole_picture() -> None:
    m = model(small())
    found = wanted.neurons(m, cutaway.channel("4", 2).resolve(m))
    assert found.size == (10, 10)
    top, left, bottom, right = found.box or (0, 0, 0, 0)
    whole = torch.rand(1, 3, 24, 24).double()
    part = found.values(whole[:, :, top : bottom + 1, left : right + 1])
    with torch.no_grad():
        assert part.item() == pytest.approx(score(m, whole, cutaway.unit("4", 2, 6, 6)).item(), rel=1e-12)


@pytest.mark.parametrize(("space", "reached"), [("pixels", 0.99), ("fourier", 0.85)])
def test_a_linear_unit_gets_the_best_picture_there_is(space: Any, reached: float) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 5).double()
    m = cutaway.VisionModel(conv, cutaway.Preprocess(crop=9), name="linear")
    (result,) = drawn(m, cutaway.custom(lambda y: y[:, 0, 2, 2]), steps=300, space=space)
    with torch.no_grad():
        best = conv.weight[0].clamp_min(0).sum() + conv.bias[0]  # pixels 1 where w > 0, else 0
        start = 0.5 * conv.weight[0].sum() + conv.bias[0]
    share = (result.evidence["value"] - start) / (best - start)
    assert reached < float(share) <= 1 + 1e-12


def test_a_dead_unit_is_revived_and_said() -> None:
    (result,) = drawn(model(small(dead=True)), cutaway.channel("4", 1), steps=60, space="fourier")
    assert result.evidence["value at the start"] == 0 < result.evidence["value"]
    assert any("4:1 was shut at the start" in n for n in result.notes)


def test_without_a_leak_a_dead_unit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted, "LEAK", 0.0)
    with pytest.raises(MethodRefusedError, match="gradient is exactly zero"):
        drawn(model(small(dead=True)), cutaway.channel("4", 1), steps=3, space="fourier")


def test_a_saturated_probability_is_refused_with_a_hint() -> None:
    net = small()
    with torch.no_grad():
        net[-1].weight *= 1e6
        net[-1].bias[2] = 1e9
    with pytest.raises(MethodRefusedError, match="zero") as caught:
        drawn(model(net), cutaway.probability(2), steps=3)
    assert "logit" in caught.value.hint


def test_told_enough_it_keeps_what_was_drawn() -> None:
    seen: list[Tensor] = []

    def watch(step: Progress) -> None:
        if step.preview is not None:
            seen.append(step.preview)
        if len(seen) == 3:
            raise Enough

    (result,) = drawn(model(small()), 2, watch=watch, steps=1000)
    assert result.evidence["steps"] == 16
    assert "stopped after 16 of 1000 steps" in result.notes
    np.testing.assert_allclose(result.values, seen[-1][0].numpy(), atol=1e-12)
    short = drawn(model(small()), 2, steps=16, calm=0)[0]
    np.testing.assert_array_equal(result.values, short.values)


def test_several_draws_of_one_target_differ_more_when_asked() -> None:
    m = model(small())
    spread = {}
    for weight in (0.0, 5.0):
        (result,) = drawn(m, cutaway.channel("4", 3), steps=40, draws=3, diversity=weight, read="channel")
        every = torch.from_numpy(np.concatenate([result.values[None], result.panels["draws"].values]))
        with cutaway.core.tap.Tap(m, "4") as tap, torch.no_grad():
            m(every)
        spread[weight] = likeness(tap.maps("4"), 3).mean().item()
    assert len(result.evidence["values"]) == 3
    assert spread[5.0] < spread[0.0] - 0.01


@pytest.mark.parametrize(("size", "made"), [((7, 6), (7, 6)), ((11, 13), (12, 14))])
def test_spectra_become_pictures_as_numpy_has_it(size: tuple[int, int], made: tuple[int, int]) -> None:
    m = model(small(), 7)
    for decorrelated in (True, False):
        canvas = Fourier(m, size, decorrelated=decorrelated)
        numbers = canvas.start(2, 1.0, random())
        z = numbers[..., 0].numpy() + 1j * numbers[..., 1].numpy()
        f = np.hypot(np.fft.fftfreq(made[0])[:, None], np.fft.rfftfreq(made[1])[None])
        plane = np.fft.irfft2(z * np.sqrt(made[0] * made[1]) / np.maximum(f, 1 / max(made)) / 4, s=made)
        if decorrelated:
            root = np.array([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]])
            plane = np.einsum("kc,nchw->nkhw", root / np.linalg.norm(root, axis=0).max(), plane)
        plane = plane[:, :, : size[0], : size[1]]
        np.testing.assert_allclose(canvas.pixels(numbers), 1 / (1 + np.exp(-plane)), atol=1e-12)


def test_movements_are_those_of_the_plane() -> None:
    x = torch.rand(2, 3, 6, 6).double()
    assert torch.equal(STILL.draw(random())(x), x)
    np.testing.assert_allclose(Movement(angle=np.pi / 2)(x), np.rot90(x.numpy(), -1, (2, 3)), atol=1e-12)
    np.testing.assert_allclose(
        Movement(size=1.0, angle=1e-12, down=1 / 6)(x)[:, :, 1:], x[:, :, :-1], atol=1e-9
    )
    padded = np.pad(x.numpy(), [(0, 0)] * 2 + [(6, 6)] * 2, mode="symmetric")
    for down, across in ((2, -3), (-1, 0), (0, 4)):
        rows, columns = slice(6 - down, 12 - down), slice(6 - across, 12 - across)
        np.testing.assert_array_equal(shifted(x, down, across), padded[:, :, rows, columns])
    wide = torch.rand(1, 3, 4, 8).double()
    np.testing.assert_allclose(Movement(angle=np.pi)(wide), wide.flip(2, 3), atol=1e-12)
    moves = [Shake(0.1, 0.2, 30).draw(random()) for _ in range(2)]
    assert moves[0] == moves[1]
    assert abs(moves[0].down) <= 0.1 < 0.2 >= abs(moves[0].size - 1) > 0


def test_the_input_canvas_shows_the_mean_for_zero() -> None:
    m = model(small())
    pixels = Input(m, (2, 2)).pixels(torch.zeros(1, 3, 2, 2).double())
    np.testing.assert_allclose(pixels[0, :, 0, 0], (0.4, 0.5, 0.6), atol=1e-12)


def test_class_evidence_is_the_mean_probability_under_eight_movements() -> None:
    m = model(small())
    (result,) = drawn(m, 4, steps=40)
    draws, picture, found = random(), torch.from_numpy(result.values)[None], []
    for _ in range(8):
        down, across, size, _ = (2 * torch.rand(4, generator=draws, dtype=torch.float64) - 1).tolist()
        moved = Movement(0.05 * down, 0.05 * across, 1 + 0.1 * size, 0.0)(picture)
        with torch.no_grad():
            found.append(m(moved).softmax(1)[0, 4].item())
    assert result.evidence["probability when moved"] == pytest.approx(np.mean(found), rel=1e-9)
    assert "probability when moved" not in drawn(m, cutaway.channel("4", 2), steps=1)[0].evidence
