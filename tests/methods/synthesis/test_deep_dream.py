"""DeepDream against the same arithmetic in numpy, on layers that are linear."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway import METHODS, Preprocess, VisionModel
from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.progress import Enough, finish
from cutaway.core.run import explain

RATE = 0.01


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(kernel: int = 3) -> VisionModel:
    """A convolution without any bend, and another behind it that takes any size."""
    net = nn.Sequential(nn.Conv2d(3, 4, kernel), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    generator = torch.Generator().manual_seed(3)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return VisionModel(net.double(), Preprocess(), ("one", "two"), name="linear")


def dream(model: VisionModel, x: Tensor, target: Any = None, **options: Any) -> Any:
    plain = {"layer": "0", "jitter": 0, "rate": RATE} if target is None else {"jitter": 0, "rate": RATE}
    return model.explain(x, "deep_dream", target, **(plain | options))


def weights(model: VisionModel) -> tuple[np.ndarray, np.ndarray]:
    return model.network[0].weight.detach().numpy(), model.network[0].bias.detach().numpy()


def forward(u: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    k = w.shape[-1]
    high, wide = u.shape[1] - k + 1, u.shape[2] - k + 1
    out = np.zeros((len(w), high, wide))
    for r in range(high):
        for c in range(wide):
            out[:, r, c] = np.tensordot(w, u[:, r : r + k, c : c + k], 3) + b
    return out


def backward(a: np.ndarray, w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    k, g = w.shape[-1], np.zeros(shape)
    for r in range(a.shape[1]):
        for c in range(a.shape[2]):
            g[:, r : r + k, c : c + k] += np.tensordot(a[:, r, c], w, 1)
    return g


def stepped(u: np.ndarray, g: np.ndarray) -> np.ndarray:
    return np.clip(u + RATE * g / np.abs(g).mean(), 0, 1)


def smaller(u: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each new pixel the triangle-weighted mean around its centre."""
    for axis, new in ((1, size[0]), (2, size[1])):
        old = u.shape[axis]
        wide = old / new
        centres = (np.arange(new)[:, None] + 0.5) * wide
        m = np.clip(1 - np.abs(np.arange(old)[None] + 0.5 - centres) / wide, 0, None)
        m /= m.sum(1, keepdims=True)
        u = np.moveaxis(np.tensordot(m, u, (1, axis)), 0, axis)
    return u


def sampled(u: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear at these rows and columns, borders repeated."""
    for axis, at in ((1, rows), (2, columns)):
        at = np.clip(at, 0, u.shape[axis] - 1)
        low = np.minimum(np.floor(at).astype(int), max(u.shape[axis] - 2, 0))
        share = np.expand_dims(at - low, [a for a in range(3) if a != axis])
        u = u.take(low, axis) * (1 - share) + u.take(np.minimum(low + 1, u.shape[axis] - 1), axis) * share
    return u


def larger(u: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return sampled(u, *((np.arange(n) + 0.5) * o / n - 0.5 for n, o in zip(size, u.shape[1:], strict=True)))


def test_octaves_carry_their_detail_up() -> None:
    model, x = linear(), random(3, 20, 14)
    found = dream(model, x, octaves=3, ratio=1.5, steps=2)
    assert found.evidence["octaves"] == ("20 x 14", "13 x 9", "9 x 6")
    (w, b), photo = weights(model), x.numpy()
    detail = np.zeros((3, 9, 6))
    for size in ((9, 6), (13, 9), (20, 14)):
        base = photo if size == (20, 14) else smaller(photo, size)
        u = base + larger(detail, size)
        for _ in range(2):
            u = stepped(u, backward(forward(u, w, b), w, u.shape))
        detail = u - base
    np.testing.assert_allclose(found.values, u, atol=1e-12)
    assert np.abs(found.values - photo).mean() > RATE  # more than one octave's steps
    assert found.evidence["value"] == pytest.approx((forward(u, w, b) ** 2).sum() / 2)
    assert found.evidence["value at the start"] == pytest.approx((forward(photo, w, b) ** 2).sum() / 2)
    assert found.target == ""
    np.testing.assert_array_equal(found.panels["original"].values, photo)


def test_jitter_is_one_of_the_shifts_around_the_picture() -> None:
    model, x = linear(), random(3, 9, 8)
    (w, b), photo = weights(model), x.numpy()
    found = [dream(model, x, octaves=1, steps=1, jitter=2)]
    found.append(model.explain(x, "deep_dream", seed=1, layer="0", octaves=1, steps=1, jitter=2, rate=RATE))
    hits = []
    for one in found:
        for down in range(-2, 3):
            for across in range(-2, 3):
                moved = np.roll(photo, (down, across), (1, 2))
                g = np.roll(backward(forward(moved, w, b), w, photo.shape), (-down, -across), (1, 2))
                if np.allclose(stepped(photo, g), one.values, atol=1e-12):
                    hits.append((down, across))
    assert len(hits) == 2
    assert hits[0] != hits[1]


def test_a_guide_draws_every_position_to_its_nearest_feature() -> None:
    model, x, guide = linear(), random(3, 9, 8), random(3, 7, 6, seed=5)
    (w, b), photo = weights(model), x.numpy()
    a, g = forward(photo, w, b), forward(guide.numpy().astype(np.float64), w, b).reshape(4, -1)
    best = g[:, (a.reshape(4, -1).T @ g).argmax(1)].reshape(a.shape)
    found = dream(model, x, octaves=1, steps=1, guide=guide)
    np.testing.assert_allclose(found.values, stepped(photo, backward(best, w, photo.shape)), atol=1e-6)
    assert any("guided by" in n for n in found.notes)


def test_a_class_or_a_channel_is_dreamt_of_instead() -> None:
    model, x = linear(1), random(3, 6, 5)
    (w, _), photo = weights(model), x.numpy()
    head = model.network[1].weight.detach().numpy()[:, :, 0, 0]
    for target, way in (("two", head[1] @ w[:, :, 0, 0]), (cutaway.channel("0", 2), w[2, :, 0, 0])):
        found = dream(model, x, target, octaves=2, steps=1)
        g = np.broadcast_to(way[:, None, None], photo.shape)
        u = smaller(photo, (4, 4))
        detail = stepped(u, g[:, :4, :4]) - u
        np.testing.assert_allclose(found.values, stepped(photo + larger(detail, (6, 5)), g), atol=1e-12)
    assert found.target == "0:2"


def test_each_frame_is_the_dream_of_the_one_before_enlarged() -> None:
    model, x = linear(), random(3, 12, 10)
    both = dream(model, x, octaves=2, steps=2, frames=2, zoom=1.25).panels["frames"].values
    rows, columns = ((np.arange(n) + 0.5 - n / 2) / 1.25 + n / 2 - 0.5 for n in (12, 10))
    once = dream(model, x, octaves=2, steps=2).values
    np.testing.assert_allclose(both[0], once, atol=1e-12)
    grown = torch.from_numpy(sampled(once, rows, columns))
    np.testing.assert_allclose(both[1], dream(model, grown, octaves=2, steps=2).values, atol=1e-6)


def fixed() -> VisionModel:
    """Takes 16 x 16 and nothing else, for all but its first layer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 144, 3))
    return VisionModel(net.double(), Preprocess(), name="fixed")


def test_too_small_octaves_are_left_out_or_refused_with_the_usable_number() -> None:
    model, x = fixed(), random(3, 16, 16)
    found = dream(model, x, 1)
    assert len(found.evidence["octaves"]) == 1
    assert any("1 of 4 octaves: the network takes 16 x 16, but not 11 x 11 pixels" in n for n in found.notes)
    with pytest.raises(UsageError, match="at most 1 with"):
        dream(model, x, 1, octaves=3)
    found = dream(model, x, octaves=4)  # the first layer takes all of 16, 11, 8, 6, but is shut at the last
    assert len(found.evidence["octaves"]) == 4
    assert "at 6 x 6 pixels nothing leads uphill: left as it was" in found.notes
    with pytest.raises(UsageError, match="takes 6 x 6, but not 4 x 4") as caught:
        dream(model, x, octaves=8)
    assert caught.value.hint == "octaves=4"


def test_the_layer_is_chosen_aloud_and_its_signal_grows() -> None:
    model = cutaway.load("cutaway:cifar")
    found = model.explain(random(3, 32, 32).float(), "deep_dream", steps=3)
    assert found.layer == model.layers.stages()[-2]
    assert any(found.layer in n for n in found.notes)
    assert found.evidence["value"] > 1.5 * found.evidence["value at the start"]


def test_contradictions_and_dead_ends_are_refused() -> None:
    model, x = linear(), random(3, 9, 8)
    with pytest.raises(UsageError, match="together with the target logit 1"):
        dream(model, x, 1, layer="0")
    with pytest.raises(UsageError, match="a guide together with"):
        dream(model, x, 1, guide=random(3, 9, 8))
    with pytest.raises(UsageError, match="2 guides"):
        dream(model, x, guide=random(2, 3, 9, 8))
    with pytest.raises(UsageError, match="no positions"):
        dream(model, x, layer="3", guide=random(3, 9, 8))
    model.network[0].bias.data.zero_()
    with pytest.raises(MethodRefusedError, match="exactly zero"):
        dream(model, torch.zeros(3, 9, 8, dtype=torch.float64))


class Gate(nn.Module):
    """Classes that only pictures brighter than the middle reach."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean((1, 2, 3)) - 0.5).relu()[:, None] * torch.arange(1.0, 3).to(x)


def test_of_a_batch_the_pictures_without_a_gradient_are_named() -> None:
    both = torch.stack([torch.full((3, 8, 8), 0.2), torch.full((3, 8, 8), 0.8)]).double()
    gate = VisionModel(Gate(), Preprocess(), name="gate")
    dark, bright = gate.draw(1, "deep_dream", image=both, octaves=1, jitter=0)
    assert any("for picture 0, counted from 0" in note for note in dark.notes)
    np.testing.assert_allclose(dark.values, 0.2, atol=1e-6)
    assert bright.values.mean() > 0.81


def test_a_value_that_did_not_rise_is_said() -> None:
    model = VisionModel(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4, eps=0)), Preprocess(), name="n")
    kept = model.explain(random(3, 9, 8), "deep_dream", layer="1", octaves=1)
    assert any("did not rise" in note for note in kept.notes)
    risen = model.explain(random(3, 9, 8), "deep_dream", layer="0", octaves=1)
    assert not any("did not rise" in note for note in risen.notes)


def test_the_predicted_class_in_a_difference_is_that_of_each_picture() -> None:
    model, x = linear(), torch.stack([random(3, 9, 8, seed=s) for s in range(6)])
    with torch.no_grad():
        model.network[1].bias += torch.tensor([0.0, float((model(x)[:, 0] - model(x)[:, 1]).median())])
        first = model(x).argmax(1)
    assert len(set(first.tolist())) == 2
    for octaves in (1, 2):
        together = model.draw(
            cutaway.predicted() - 0.5 * cutaway.logit(0),
            "deep_dream",
            image=x,
            octaves=octaves,
            jitter=0,
            steps=2,
        )
        for k, one, own in zip(first.tolist(), together, x, strict=True):
            assert one.target.startswith(f"logit {k} ")
            alone = dream(
                model,
                own,
                cutaway.logit(k) - 0.5 * cutaway.logit(0),
                octaves=octaves,
                steps=2,
                rate=1.5 / 255,
            )
            np.testing.assert_allclose(one.values, alone.values, atol=1e-12)


@pytest.mark.parametrize("after", [0, 5, 9])
def test_told_enough_it_ends_with_what_there_is(after: int) -> None:
    model, x = linear(), random(3, 20, 14)
    seen = 0

    def watch(progress: Any) -> None:
        nonlocal seen
        assert 0 <= progress.fraction <= 1
        seen += 1
        if seen > after:
            raise Enough

    options = {"layer": "0", "octaves": 2, "steps": 4, "frames": 3}
    (found,) = finish(explain(model, METHODS["deep_dream"], x, None, options), watch)
    assert found.values.shape == (3, 20, 14)
    assert any("stopped in frame" in n for n in found.notes)
    assert (np.abs(found.values - x.numpy()).max() > 1e-9) == (after > 0)


def test_a_grey_network_dreams_in_grey() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    model = VisionModel(net.double(), Preprocess(channels="L"), name="grey")
    found = model.explain(random(20, 20), "deep_dream", layer="0", octaves=2, steps=2)
    assert found.values.shape == (3, 20, 20)
    assert (found.values == found.values[:1]).all()
