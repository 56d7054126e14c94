"""adversarial_patch: masked Adam steps by hand, conditions by hand, printability by loops, splines against SciPy."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cutaway
from cutaway.core.errors import InputError, MethodRefusedError, UsageError
from cutaway.core.progress import Enough, finish
from cutaway.core.run import explain
from cutaway.methods import get
from cutaway.methods.adversarial.adversarial_patch import Scene, one
from cutaway.methods.adversarial.attention import centre
from cutaway.methods.adversarial.balls import eight_bit
from cutaway.methods.adversarial.conditions import Conditions, Drawn, folded_from, moved_from, places, taken
from cutaway.methods.adversarial.printing import Mask, mask_of, non_printability, off_palette, printable
from cutaway.methods.adversarial.thin_plate import thin_plate

from .nets import attack, curved, linear, middle

STILL = {
    "rotation": 0,
    "scale": 0,
    "shift": 0,
    "light": 0,
    "trials": 2,
    "row": 0.5,
    "column": 0.5,
    "share": 0.25,
}


def corner(h: int = 8, w: int = 8) -> Mask:
    return mask_of((h, w), "rectangle", 0.5, 0.5, 0.25)


def adam(model: cutaway.VisionModel, x: Tensor, k: int, where: Tensor, steps: int, cost: Any) -> Tensor:
    """Torch's own Adam on cost(d) - cross-entropy of class k, masked and clipped by hand; no transformations."""
    d = torch.zeros_like(x).requires_grad_()
    optimiser = torch.optim.Adam([d], lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        (cost(d) - F.cross_entropy(model(x + where * d), torch.tensor([k]))).backward()
        assert d.grad is not None
        d.grad *= where
        optimiser.step()
        with torch.no_grad():
            d.clamp_(-0.5, 0.5)
            d.copy_((x + d).clamp(0, 1) - x)
    return x + where * d.detach()


@pytest.mark.parametrize("shape", ["rectangle", "stickers"])
@pytest.mark.parametrize("moves", ["patch", "picture"])
def test_without_conditions_or_costs_it_is_adam_under_a_mask(shape: str, moves: str) -> None:
    model, x = curved(), middle(1, 8, 8)
    with torch.no_grad():
        k = int(model(x).argmax())
    options = STILL | {"size_weight": 0, "print_weight": 0, "steps": 7, "shape": shape, "moves": moves}
    (found,) = attack(model, "adversarial_patch", x, **options)
    where = mask_of((8, 8), shape, 0.5, 0.5, 0.25).where
    right = adam(model, x, k, where, 7, lambda d: 0)
    np.testing.assert_allclose(found.values, right[0].numpy(), atol=1e-9)
    assert np.array_equal(found.values[:, ~where[0, 0]], x[0][:, ~where[0, 0]].numpy())
    assert found.evidence["pixels of the patch"] == int(where.sum())


def test_length_and_printability_are_weighed_against_the_loss(tmp_path: Path) -> None:
    model, x = curved(), middle(1, 8, 8)
    with torch.no_grad():
        k = int(model(x).argmax())
    where = corner().where
    palette = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9], [0.5, 0.5, 0.5]]).double()

    def cost(d: Tensor) -> Tensor:
        p = (x + where * d)[0].permute(1, 2, 0)[where[0, 0]]
        nps = sum((c - palette).square().sum(1).add(1e-300).sqrt().prod() for c in p)
        return 2.0 * (where * d).square().sum().add(1e-300).sqrt() + 3.0 * nps

    file = tmp_path / "palette.txt"
    file.write_text("\n".join(",".join(map(str, c.tolist())) for c in palette))
    options = STILL | {"size_weight": 2, "print_weight": 3, "steps": 6, "palette": str(file)}
    (found,) = attack(model, "adversarial_patch", x, **options)
    np.testing.assert_allclose(found.values, adam(model, x, k, where, 6, cost)[0].numpy(), atol=1e-8)
    (free,) = attack(model, "adversarial_patch", x, **(STILL | {"steps": 6, "size_weight": 0}))
    assert found.evidence["l2"] < free.evidence["l2"]


def test_non_printability_by_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    p, palette = torch.rand(2, 3, 4, 4, generator=generator).double(), printable(None)
    where = torch.rand(1, 1, 4, 4, generator=generator) > 0.4
    for i in range(2):
        total, nearest = 0.0, []
        for r in range(4):
            for c in range(4):
                if where[0, 0, r, c]:
                    off = [math.dist(p[i, :, r, c].tolist(), colour) for colour in palette.tolist()]
                    total += math.prod(off)
                    nearest.append(min(off))
        assert float(non_printability(p, where, palette)[i]) == pytest.approx(total, rel=1e-12)
        assert float(off_palette(p, where, palette)[i]) == pytest.approx(
            sum(nearest) / len(nearest), rel=1e-12
        )
    assert palette.shape == (30, 3)
    assert len({tuple(c) for c in palette.tolist()}) == 30
    printed = palette[:16].T.reshape(1, 3, 4, 4)
    assert float(non_printability(printed, where, palette)) == 0


def test_the_step_follows_the_mean_over_the_conditions() -> None:
    """One step of Adam is the sign of the mean gradient: here the mean over scenes made pixel by pixel, by hand."""
    model, x = linear(size=192), middle(1, 8, 8)
    with torch.no_grad():
        k = int(model(x).argmax())
    options = STILL | {
        "light": 0.4,
        "shift": 0.3,
        "samples": 3,
        "steps": 1,
        "size_weight": 0,
        "print_weight": 0,
    }
    (found,) = attack(model, "adversarial_patch", x, k, bound=0.01, **options)
    torch.manual_seed(0)
    drawn = Conditions(0, 0, 0.3, 0.4, 0).draw(3, (8, 8), (4, 4))
    mask = corner()
    d = torch.zeros_like(x).requires_grad_()
    total = torch.zeros(())
    for i in range(3):
        scene = by_hand(x, x + d, mask.where, drawn.shift[i].tolist(), float(drawn.gain[i]))
        total = total + F.cross_entropy(model(scene), torch.tensor([k])) / 3
    (g,) = torch.autograd.grad(total, d)
    right = x + mask.where * (0.01 * g.sign())
    np.testing.assert_allclose(found.values, right[0].numpy(), atol=1e-9)


def by_hand(x: Tensor, p: Tensor, where: Tensor, shift: list[float], gain: float) -> Tensor:
    """The patch of p shifted, lit and pasted over x, one pixel after another by bilinear weights."""
    high, wide = x.shape[2:]
    rows = []
    for r in range(high):
        row = []
        for c in range(wide):
            y, z = r - shift[0], c - shift[1]
            colour, cover = torch.zeros(3, dtype=x.dtype), 0.0
            for i, wi in ((math.floor(y), 1 - y % 1), (math.floor(y) + 1, y % 1)):
                for j, wj in ((math.floor(z), 1 - z % 1), (math.floor(z) + 1, z % 1)):
                    inside = 0 <= i < high and 0 <= j < wide
                    if inside and bool(where[0, 0, i, j]):
                        cover += wi * wj
                    i_, j_ = min(max(i, 0), high - 1), min(max(j, 0), wide - 1)
                    source = p if bool(where[0, 0, i_, j_]) else x
                    colour = colour + wi * wj * source[0, :, i_, j_]
            row.append(cover * (gain * colour).clamp(0, 1) + (1 - cover) * x[0, :, r, c])
        rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1)[None]


@pytest.mark.parametrize("whole", [False, True])
def test_a_quarter_turn_and_whole_pixels_move_pixels_as_they_are(whole: bool) -> None:
    x, p = middle(2, 8, 8), 1 - middle(2, 8, 8, seed=9)
    mask = corner()
    scene = Scene(x, mask, Conditions(rotation=90, shift=0.1), whole)
    quarter = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]]).double()  # (row, column) -> (-column, row)
    drawn = Drawn(
        quarter, torch.tensor([[1.0, -2.0]]).double(), torch.ones(1).double(), torch.zeros(1, 9, 2).double()
    )
    got = scene.seen(p, drawn)
    turned = torch.rot90(p[..., 2:6, 2:6], 1, (2, 3))
    if not whole:
        right = x.clone()
        right[..., 3:7, 0:4] = turned
        np.testing.assert_allclose(got, right, atol=1e-12)
        np.testing.assert_allclose(scene.seen(p, drawn, patched=False), x, atol=0)
    else:
        np.testing.assert_allclose(got[..., 3:7, 0:4], turned, atol=1e-12)
        inner = torch.rot90(scene.worn(p), 1, (2, 3))
        np.testing.assert_allclose(got[..., 1:, :6], inner[..., :-1, 2:], atol=1e-12)


def test_conditions_keep_their_ranges_and_nothing_moves_without_them() -> None:
    torch.manual_seed(0)
    drawn = Conditions(30, 0.2, 0.1, 0.3, 0.05).draw(2000, (40, 20), (10, 5))
    scales = torch.linalg.det(drawn.turn).sqrt()
    angles = torch.rad2deg(torch.atan2(drawn.turn[:, 1, 0], drawn.turn[:, 0, 0]))
    for values, low, high in (
        (scales, 0.8, 1.2),
        (angles, -30, 30),
        (drawn.shift[:, 0], -4, 4),
        (drawn.shift[:, 1], -2, 2),
        (drawn.gain, 0.7, 1.3),
    ):
        span = high - low
        assert low <= float(values.min()) < low + 0.01 * span
        assert high - 0.01 * span < float(values.max()) <= high
        assert abs(float(values.mean()) - (low + high) / 2) < 0.03 * span
    apart = torch.corrcoef(torch.stack([scales, angles, drawn.shift[:, 0], drawn.shift[:, 1], drawn.gain]))
    assert float((apart - torch.eye(5)).abs().max()) < 0.1
    spread = drawn.fold.reshape(-1, 2).std(0)
    np.testing.assert_allclose(spread, [0.5, 0.25], rtol=0.03)
    still = Conditions().draw(3, (8, 8), (4, 4))
    assert torch.equal(still.turn, torch.eye(2).double().expand(3, 2, 2))
    x, p = middle(1, 8, 8), middle(1, 8, 8, seed=5)
    for whole in (False, True):
        scene = Scene(x, corner(), Conditions(), whole)
        assert torch.equal(scene.seen(p, one(still, 1)), scene.worn(p))


def test_thin_plates_are_affine_where_they_may_and_exact_where_they_must() -> None:
    from scipy.interpolate import RBFInterpolator

    generator = torch.Generator().manual_seed(1)
    controls, points = (torch.rand(n, 2, generator=generator).double() * 9 for n in (9, 50))
    a, b = torch.tensor([[1.3, -0.4], [0.2, 0.8]]).double(), torch.tensor([2.0, -1.0]).double()
    np.testing.assert_allclose(thin_plate(controls, controls @ a + b, points), points @ a + b, atol=1e-9)
    values = torch.randn(4, 9, 2, generator=generator).double()
    np.testing.assert_allclose(thin_plate(controls, values, controls), values, atol=1e-9)
    for own, one_set in zip(thin_plate(controls, values, points), values, strict=True):
        right = RBFInterpolator(controls.numpy(), one_set.numpy(), kernel="thin_plate_spline", degree=1)(
            points.numpy()
        )
        np.testing.assert_allclose(own, right, atol=1e-9)


def test_cloth_carries_its_control_points() -> None:
    drawn = Conditions(fold=0.2).draw(2, (12, 12), (4, 4))
    box = (4.0, 4.0, 8.0, 8.0)
    controls = torch.tensor([[r, c] for r in (4, 6, 8) for c in (4, 6, 8)]).double()
    origin = folded_from(drawn, places((12, 12))[None].expand(2, -1, -1), box).view(2, 12, 12, 2)
    for i in range(2):
        for (r, c), off in zip(controls.long().tolist(), drawn.fold[i], strict=True):
            np.testing.assert_allclose(origin[i, r, c], torch.tensor([r, c]) + off, atol=1e-9)
    x = middle(2, 12, 12)
    np.testing.assert_allclose(taken(x, places((12, 12))[None].expand(2, -1, -1), "zeros"), x, atol=1e-12)
    back = moved_from(drawn, (12, 12), (5.5, 5.5))
    np.testing.assert_allclose(back[0], places((12, 12)), atol=1e-12)


def test_it_is_judged_on_fresh_conditions_in_whole_levels() -> None:
    model, x = curved(), middle(2, 8, 8)
    options = STILL | {"rotation": 40, "light": 0.5, "trials": 9, "steps": 5, "samples": 2, "fold": 0.1}
    found = list(finish(explain(model, get("adversarial_patch"), x, None, options, seed=3)))
    scene = Scene(x, corner(), Conditions(40, 0, 0, 0.5, 0.1), False)
    torch.manual_seed(3)
    for _ in range(5):
        scene.draw(2)
    drawn = scene.draw(9)  # those after the ones it learned from
    worn = torch.stack([torch.from_numpy(f.panels["eight_bit"].values) for f in found])
    with torch.no_grad():
        clean = model(x).argmax(1)
        hits = torch.zeros(2)
        for i in range(9):
            seen = (255 * scene.seen(worn, one(drawn, i))).round() / 255
            hits += model(seen).argmax(1) != clean
            if i < 8:
                for f, picture in zip(found, seen, strict=True):
                    np.testing.assert_allclose(f.panels["scenes"].values[i], picture, atol=1e-12)
    assert [f.evidence["fooled under fresh conditions"] for f in found] == pytest.approx((hits / 9).tolist())
    assert float(hits.sum()) > 0
    for f, u in zip(found, worn, strict=True):
        np.testing.assert_allclose(f.panels["patch"].values, u[:, 2:6, 2:6], atol=1e-12)
        assert torch.equal(eight_bit(u[None], u[None])[0], u)


def test_more_steps_fool_more_and_a_wanted_class_is_reached() -> None:
    model, x = curved(), middle(1, 8, 8)
    with torch.no_grad():
        second = int(model(x)[0].topk(2).indices[1])
    options = STILL | {
        "rotation": 10,
        "steps": 60,
        "samples": 2,
        "trials": 20,
        "share": 0.6,
        "size_weight": 0,
    }
    (found,) = attack(model, "adversarial_patch", x, toward=str(second), **options)
    assert found.evidence["fooled under fresh conditions"] > 0.8
    assert found.evidence["turned by the conditions alone"] == 0
    assert found.evidence["as 8-bit"].startswith(f"{second} ")
    assert found.panels["scenes"].labels[0] == f"fooled: {second} {model.classes[second]!r}"


def test_a_hidden_unit_can_be_put_out_by_a_grey_start() -> None:
    model, x = curved(), middle(1, 8, 8)
    (found,) = attack(
        model, "adversarial_patch", x, cutaway.channel("conv", 2), start="grey", bound=1.0, **STILL
    )
    assert found.evidence["score after"] < found.evidence["score before"]
    (at_start,) = attack(model, "adversarial_patch", x, start="grey", bound=1.0, rate=1e-9, steps=1, **STILL)
    where = corner().where[0, 0]
    np.testing.assert_allclose(at_start.values[:, where], 128 / 255, atol=1e-8)


def test_told_to_stop_it_is_judged_as_it_stands() -> None:
    model, x = curved(), middle(1, 8, 8)
    stops = iter(range(100))

    def after_three(step: Any) -> None:
        if next(stops) == 2:  # the third step
            raise Enough

    short = finish(explain(model, get("adversarial_patch"), x, None, STILL | {"steps": 90}), after_three)
    (right,) = attack(model, "adversarial_patch", x, **STILL, steps=3)
    assert short[0].evidence["steps"] == 3
    np.testing.assert_array_equal(short[0].values, right.values)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    model, x = curved(), middle(1, 8, 8)
    for bad in ({"share": 1.0, "row": 0.4}, {"row": 0.0}, {"column": 1.0}, {"share": 1e-4}):
        with pytest.raises(UsageError, match="a patch of"):
            attack(model, "adversarial_patch", x, **(STILL | bad))
    wide = middle(1, 8, 40)
    with pytest.raises(UsageError, match="within the picture"):
        attack(model, "adversarial_patch", wide, **(STILL | {"share": 0.5}))
    for text in ("", "0.1 0.2", "0.1,0.2,x", "2 0 0"):
        (tmp_path / "palette.txt").write_text(text)
        with pytest.raises(InputError, match="printable colours"):
            attack(model, "adversarial_patch", x, palette=str(tmp_path / "palette.txt"), **STILL)
    with pytest.raises(InputError, match="printable colours"):
        attack(model, "adversarial_patch", x, palette=str(tmp_path / "none.txt"), **STILL)
    dead = linear(size=192)
    with torch.no_grad():
        dead.network.fc.weight.zero_()
    with pytest.raises(MethodRefusedError, match="gradient is zero everywhere"):
        attack(dead, "adversarial_patch", x, 0, **STILL)


def test_masks_have_their_share_and_place() -> None:
    mask = mask_of((20, 30), "rectangle", 0.5, 0.25, 0.06)
    assert mask.box == (7, 5, 13, 11) or mask.box == (7, 4, 13, 10)
    assert (
        int(mask.where.sum())
        == 36
        == int(mask.where[..., mask.box[0] : mask.box[2], mask.box[1] : mask.box[3]].sum())
    )
    two = mask_of((40, 40), "stickers", 0.5, 0.5, 0.125)
    filled = two.where[0, 0].any(1).long()
    runs = sum(b > a for a, b in pairwise([0, *filled.tolist()]))
    assert runs == 2
    assert int(two.where.sum()) == 2 * 20 * 5 == round(0.125 * 1600)
    assert two.sides == (20, 20)
    assert two.centre == (19.5, 19.5)
    paper = two.cut(torch.zeros(1, 3, 40, 40))
    assert paper.shape == (1, 3, 20, 20)
    assert float(paper[0, 0, 10, 10]) == 1


def test_where_it_looks_is_shown_of_a_patch_too() -> None:
    model, x = curved(), middle(1, 8, 8)
    (found,) = attack(model, "adversarial_patch", x, **STILL, steps=3, attention=True)
    plain = model.explain(torch.from_numpy(found.panels["eight_bit"].values), "grad_cam")
    right = centre(torch.from_numpy(plain.values)) - centre(
        torch.from_numpy(model.explain(x[0], "grad_cam").values)
    )
    assert found.evidence["attention moved by pixels"] == pytest.approx(8 * float(right.norm()))
    assert {"looks_before", "looks_after"} <= set(found.panels)


@pytest.mark.parametrize("bound", [0.5, 0.03, 0.001])
def test_its_8_bit_picture_keeps_the_bound_in_every_panel(bound: float) -> None:
    model, x = curved(), middle(1, 8, 8)
    options = STILL | {"size_weight": 0, "print_weight": 0, "steps": 9}
    (found,) = attack(model, "adversarial_patch", x, bound=bound, **options)
    assert found.evidence["levels"] == int(255 * bound) == round(255 * found.evidence["linf as 8-bit"])
    for values, original in (
        (found.panels["eight_bit"].values, x[0]),
        (found.panels["patch"].values, x[0, :, 2:6, 2:6]),
        (found.panels["scenes"].values, x),
    ):
        assert np.abs(np.rint(255 * values) - 255 * original.numpy()).max() <= 255 * bound
    assert any("bound is 0.255 of one 8-bit level" in n for n in found.notes) == (bound == 0.001)


def test_places_are_not_rounded_where_the_network_is_of_half_precision() -> None:
    x = torch.rand(1, 3, 100, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    read = taken(x, places((100, 100))[None], "border")
    assert read.dtype is torch.bfloat16
    assert float((read.float() - x.float()).abs().max()) < 1 / 255


@pytest.mark.parametrize("whole", [False, True])
def test_no_light_is_brighter_than_white(whole: bool) -> None:
    x, p = middle(1, 8, 8), middle(1, 8, 8, seed=9)
    still = Conditions().draw(1, (8, 8), (4, 4))
    scene = Scene(x, corner(), Conditions(light=1.0), whole)
    lit = scene.seen(p, Drawn(still.turn, still.shift, torch.full((1,), 2.0).double(), still.fold))
    right = (2 * scene.worn(p)).clamp(0, 1) if whole else torch.where(corner().where, (2 * p).clamp(0, 1), x)
    np.testing.assert_allclose(lit, right, atol=1e-12)
    assert float(lit.max()) == 1
