"""fgsm, and how every attack is judged: closed forms on linear networks, bounds in whole levels, refusals in words."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import cutaway
from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.methods.adversarial.attention import centre, spearman
from cutaway.methods.adversarial.balls import Ball, eight_bit
from cutaway.methods.adversarial.survival import blur, jpeg, shift

from ..nets import wrap
from .nets import attack, curved, linear, middle, rows

EPSILON = 8 / 255


def test_on_a_linear_network_a_target_falls_by_epsilon_times_the_sum_of_its_weights() -> None:
    model, x = linear(), middle()
    w, _ = rows(model)
    (found,) = attack(model, "fgsm", x, cutaway.logit(1) - cutaway.logit(2), epsilon=EPSILON)
    size = float((w[1] - w[2]).abs().sum())
    fall = found.evidence["score before"] - found.evidence["score after"]
    assert fall == pytest.approx(EPSILON * size, rel=1e-12)
    np.testing.assert_allclose(
        found.values.ravel(), x.numpy().ravel() - EPSILON * np.sign((w[1] - w[2]).numpy()), atol=1e-15
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_of_two_classes_the_margin_falls_by_epsilon_times_the_l1_norm(loss: str) -> None:
    model, x = linear(classes=2), middle()
    w, _ = rows(model)
    with torch.no_grad():
        k = int(model(x)[0].argmax())
    (found,) = attack(model, "fgsm", x, k, epsilon=EPSILON, loss=loss)
    with torch.no_grad():
        before, after = model(x)[0], model(torch.from_numpy(found.values)[None])[0]
    fall = (before[k] - before[1 - k]) - (after[k] - after[1 - k])
    assert float(fall) == pytest.approx(EPSILON * float((w[k] - w[1 - k]).abs().sum()), rel=1e-10)
    (towards,) = attack(model, "fgsm", x, k, epsilon=EPSILON, loss=loss, toward=str(1 - k))
    np.testing.assert_array_equal(towards.values, found.values)


@pytest.mark.parametrize("epsilon", [0.03, 8 / 255, 7.999 / 255, 1 / 255])
def test_the_8_bit_picture_keeps_the_bound_to_the_last_bit(epsilon: float) -> None:
    x = torch.cat([middle(2), torch.randint(0, 256, (2, 3, 5, 4)).double() / 255])
    for dtype in (torch.float64, torch.float32):
        model = linear()
        model.network.to(dtype)
        for i, found in enumerate(attack(model, "fgsm", x.to(dtype), 1, epsilon=epsilon)):
            saved = found.panels["eight_bit"].values * 255
            levels = np.rint(saved)
            assert np.abs(saved - levels).max() < 1e-4
            moved = np.abs(levels - np.rint(255 * x[i].numpy()))
            assert moved.max() <= 255 * epsilon + 1e-9
            assert moved.max() == int(255 * epsilon + 1e-9) == found.evidence["levels"]
            assert 0 <= levels.min() <= levels.max() <= 255
            assert found.evidence["linf as 8-bit"] <= epsilon


@pytest.mark.parametrize("radius", [0.02, 0.1, 0.5])
def test_whole_levels_within_a_euclidean_ball_are_as_near_as_they_may(radius: float) -> None:
    x = middle(6)
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    ball = Ball("l2", radius)
    levels = 255 * (eight_bit(x, ball.project(x + g, x), ball) - x)
    assert bool((levels - levels.round()).abs().max() < 1e-9)
    norms = levels.round().flatten(1).norm(dim=1)
    assert bool((norms <= 255 * radius + 1e-9).all())
    assert bool((norms > 0.8 * 255 * radius - 1).all())


def test_success_is_that_of_the_picture_a_file_holds() -> None:
    model, x = curved(), middle(1, 8, 8)
    (found,) = attack(model, "fgsm", x, epsilon=16 / 255)
    levels = np.rint(255 * found.panels["eight_bit"].values).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.moveaxis(levels, 0, -1)).save(file, "PNG")
    read = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)[None].double() / 255
    with torch.no_grad():
        scores, clean = model(read)[0], model(x)[0]
    assert found.evidence["fooled"] == bool(scores.argmax() != clean.argmax())
    assert found.evidence["confidence as 8-bit"] == pytest.approx(float(scores.softmax(0).max()), rel=1e-9)
    k = int(scores.argmax())
    assert found.evidence["as 8-bit"].startswith(f"{k} {model.classes[k]!r} ")
    assert found.evidence["as 8-bit"] in found.panels["eight_bit"].title
    assert found.evidence["before"] in found.panels["original"].title
    ten = np.clip(0.5 + 10 * (levels / 255 - x[0].numpy()), 0, 1)
    np.testing.assert_allclose(found.panels["difference_x10"].values, ten, atol=1e-12)


def test_each_picture_of_a_batch_has_its_own_titles() -> None:
    model, x = curved(), middle(3, 8, 8)
    for found in attack(model, "fgsm", x, epsilon=16 / 255):
        assert found.title == f"adversarial: {found.evidence['after']}"
        assert found.panels["original"].title == f"original: {found.evidence['before']}"
        assert found.panels["eight_bit"].title == f"as an 8-bit picture: {found.evidence['as 8-bit']}"
        assert [p.title for p in found.panels.values() if p.before] == [found.panels["original"].title]
        assert found.panels["difference"].title == "difference + 0.5"


def test_what_survives_is_asked_of_the_treated_pictures() -> None:
    model, x = curved(), middle(3, 8, 8)
    for i, found in enumerate(attack(model, "fgsm", x, epsilon=20 / 255)):
        whole = torch.from_numpy(found.panels["eight_bit"].values)[None]
        with torch.no_grad():
            clean = int(model(x[i : i + 1]).argmax())
            right = {
                "JPEG at quality 75": int(model(jpeg(whole)).argmax()) != clean,
                "a blur of 1 px": int(model(blur(whole)).argmax()) != clean,
                "a shift of 2 px": int(model(shift(whole)).argmax()) != clean,
            }
        assert {name: row["still fooled"] for name, row in found.evidence["survives"].items()} == right
        treated = (jpeg(x[i : i + 1]), blur(x[i : i + 1]), shift(x[i : i + 1]))
        with torch.no_grad():
            kept = [int(model(u).argmax()) == clean for u in treated]
        assert [row["original unmoved"] for row in found.evidence["survives"].values()] == kept


def test_survival_is_asked_only_where_it_is_wanted() -> None:
    model, x = curved(), middle(2, 8, 8)
    plain = attack(model, "fgsm", x, epsilon=20 / 255, survival=False)
    for short, whole in zip(plain, attack(model, "fgsm", x, epsilon=20 / 255), strict=True):
        assert "survives" not in short.evidence
        assert not any("JPEG" in note for note in short.notes)
        assert any("JPEG" in note for note in whole.notes)
        np.testing.assert_array_equal(short.values, whole.values)


def test_the_treatments_are_what_their_names_say() -> None:
    from scipy.ndimage import gaussian_filter

    x = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = np.stack([[gaussian_filter(c, 1.0, mode="nearest") for c in p] for p in x.numpy()])
    np.testing.assert_allclose(blur(x), right, atol=1e-12)
    moved = shift(x)
    assert torch.equal(moved[..., 2:, 2:], x[..., :-2, :-2])
    assert torch.equal(moved[..., 0, 2:], x[..., 0, :-2])
    smooth = (torch.arange(64.0).view(1, 1, 8, 8) / 64).expand(1, 3, 8, 8)
    assert 0 < float((jpeg(smooth) - smooth).abs().max()) < 0.1
    assert jpeg(smooth[:, :1]).shape == (1, 1, 8, 8)


def test_attention_is_grad_cam_of_the_class_each_picture_has() -> None:
    model, x = curved(), middle(1, 8, 8)
    (found,) = attack(model, "fgsm", x, epsilon=16 / 255, attention=True)
    with torch.no_grad():
        before = int(model(x).argmax())
        whole = torch.from_numpy(found.panels["eight_bit"].values)[None]
        after = int(model(whole).argmax())
    maps = [
        torch.from_numpy(model.explain(u, "grad_cam", k).values) for u, k in ((x, before), (whole, after))
    ]
    apart = float(((centre(maps[0]) - centre(maps[1])) * 8).norm())
    assert found.evidence["attention moved by pixels"] == pytest.approx(apart)
    assert found.evidence["attention rank correlation"] == pytest.approx(spearman(*maps))
    assert set(found.panels) >= {"looks_before", "looks_after"}


def test_ranks_against_another_library() -> None:
    from scipy.stats import spearmanr

    a, b = torch.randint(0, 6, (2, 7, 5), generator=torch.Generator().manual_seed(2)).float()
    assert spearman(a, b) == pytest.approx(float(spearmanr(a.ravel(), b.ravel()).statistic), rel=1e-12)
    assert np.isnan(spearman(a, torch.zeros(7, 5)))


def test_pictures_that_were_wrong_before_are_counted_apart() -> None:
    model, x = curved(), middle(1, 8, 8)
    with torch.no_grad():
        wrong = int(model(x)[0].argmin())
    (found,) = attack(model, "fgsm", x, wrong)
    assert found.evidence["already wrong"] is True
    assert found.evidence["fooled"] is None
    assert any("already misclassified" in n for n in found.notes)


@pytest.mark.parametrize("method", ["fgsm", "pgd", "lbfgs_attack", "iterative_fooling"])
def test_a_class_that_is_there_already_is_no_aim(method: str) -> None:
    model, x = curved(), middle(1, 8, 8)
    with torch.no_grad():
        k = int(model(x)[0].argmax())
    with pytest.raises(MethodRefusedError, match="already") as caught:
        attack(model, method, x, None, toward=model.classes[k])
    assert caught.value.hint.startswith("toward=")
    with pytest.raises(UnknownNameError, match="no class named"):
        attack(model, method, x, None, toward="unicorn")
    with pytest.raises(UsageError, match="no class"):
        attack(model, method, x, cutaway.channel("conv", 1), toward="ant")


def test_a_saturated_softmax_is_refused_and_the_margin_is_not() -> None:
    model, x = linear(factor=1e5), middle()
    model.network.float()
    with pytest.raises(MethodRefusedError, match="gradient is zero everywhere.*saturated softmax") as caught:
        attack(model, "fgsm", x.float())
    assert "margin" in caught.value.hint
    (found,) = attack(model, "fgsm", x.float(), loss="margin")
    assert found.evidence["linf"] > 0


def test_bounds_out_of_range_are_refused_and_tiny_ones_said() -> None:
    model, x = linear(), middle()
    for epsilon in (0, -0.1, 1.01):
        with pytest.raises(UsageError, match="epsilon"):
            attack(model, "fgsm", x, epsilon=epsilon)
    (found,) = attack(model, "fgsm", x, epsilon=0.001)
    assert any("one 8-bit level" in n for n in found.notes)
    assert found.evidence["levels"] == 0


def test_grey_pictures_and_hidden_units() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    )
    grey = cutaway.VisionModel(net, cutaway.Preprocess(channels="L"), name="grey")
    found = grey.explain(torch.rand(1, 8, 8), "fgsm")
    assert found.values.shape == (3, 8, 8)
    model, x = curved(), middle(2, 8, 8)
    for found in attack(model, "fgsm", x, cutaway.channel("conv", 2)):
        assert found.evidence["score after"] < found.evidence["score before"]


def test_what_rounding_undoes_is_no_success() -> None:
    model = linear(classes=2)
    w, b = rows(model)
    x = middle()
    f = w @ x.flatten() + b
    k = int(f.argmax())
    model.network.fc.bias.data[k] -= f[k] - f[1 - k] - 1e-4  # a hair from the boundary
    (found,) = attack(model, "fgsm", x, k, epsilon=0.9 / 255)
    assert found.evidence["fooled before rounding"] is True
    assert found.evidence["fooled"] is False
    assert "rounding to 8 bits undoes 1 of 1" in found.notes


def test_scores_at_several_places_are_summed() -> None:
    net = torch.nn.Conv2d(3, 2, 4, stride=2, bias=False)
    model, x = wrap(net), middle(1, 8, 8)
    with torch.no_grad():
        scores = model(x).flatten(2).sum(2)[0]
    (found,) = attack(model, "fgsm", x, epsilon=EPSILON)
    assert found.evidence["confidence before"] == pytest.approx(float(scores.softmax(0).max()), rel=1e-12)
