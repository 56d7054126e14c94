"""Methods that ask about a picture, each with an independent check."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .case import Case, agree, array, close, oracle
from .networks import CLASSES
from .plain import Guided, Rectified, Secant, legendre, thresholded


@oracle("saliency")
def _(case: Case) -> None:
    found = case.run("saliency")
    agree(found.values, case.plain.gradient[0].abs().amax(0))
    close(found.evidence["score"], case.plain.clean)


@oracle("backprop")
def _(case: Case) -> None:
    agree(case.run("backprop").values, case.plain.gradient[0])


@oracle("gradient_times_input")
def _(case: Case) -> None:
    found = case.run("gradient_times_input", reduce="rgb")
    agree(found.values, (case.plain.u * case.plain.gradient)[0])
    around = case.run("gradient_times_input", origin="network").values
    agree(around, ((case.plain.u - nothing(case)) * case.plain.gradient)[0].sum(0))


@oracle("smooth_grad")
def _(case: Case) -> None:
    samples, sigma, u = 3, 0.1, case.plain.u
    found = case.run("smooth_grad", samples=samples, sigma=sigma, reduce="rgb")
    width = sigma * float(u.max() - u.min())
    generator = torch.Generator().manual_seed(0)  # the run's own seed
    noise = torch.stack([torch.randn(u.shape[1:], generator=generator) for _ in range(samples)])
    agree(found.values, case.plain.slope(u + width * noise.double()).mean(0))


@oracle("integrated_gradients")
def _(case: Case) -> None:
    nodes, u = 4, case.plain.u
    found = case.run("integrated_gradients", rule="gauss", steps=nodes, reduce="rgb")
    places, weights = (torch.from_numpy(v) for v in legendre(nodes))
    slopes = case.plain.slope(places.view(-1, 1, 1, 1) * u)  # from black
    agree(found.values, u[0] * (weights.view(-1, 1, 1, 1) * slopes).sum(0))
    close(found.evidence["baseline score"], case.plain.score(torch.zeros_like(u)))
    close(found.evidence["completeness residual"], abs(found.values.sum() - rise(case)), 1e-8)


@oracle("grad_cam")
def _(case: Case) -> None:
    a, g = case.plain.maps
    heat = (g.mean((2, 3), keepdim=True) * a).sum(1)[0]
    found = case.run("grad_cam", relu=False)  # at the layer the package chooses
    assert found.layer == case.network.layer
    agree(found.values, heat)
    against = case.run("grad_cam", layer=case.network.layer, counterfactual=True).values
    assert np.abs(array(against) - array((-heat).clamp(min=0))).max() <= 1e-9 * float(heat.abs().max())


@oracle("grad_cam_plus_plus")
def _(case: Case) -> None:
    a, g = case.plain.maps
    found = case.run("grad_cam_plus_plus").values
    heat = np.zeros(a.shape[2:])
    for map_, slope in zip(array(a[0]), array(g[0]), strict=True):
        below = 2 * slope**2 + slope**3 * map_.sum()
        alpha = np.divide(slope**2, below, out=np.zeros_like(slope), where=below != 0)
        heat += (alpha * np.maximum(slope, 0)).sum() * map_
    agree(found, np.maximum(heat, 0), 1e-7)


@oracle("layer_cam")
def _(case: Case) -> None:
    a, g = case.plain.maps
    agree(case.run("layer_cam").values, (g.clamp(min=0) * a).sum(1)[0].clamp(min=0))


@oracle("cam")
def _(case: Case) -> None:
    """The map adds up to the logit less the head's own bias, and is the head's weights times what was pooled."""
    found = case.run("cam")
    explained = found.values.mean() if found.evidence["pooling"] == "mean" else found.values.sum()
    if case.network.head:
        head = case.plain.net.get_submodule(case.network.head)
        weight, bias = head.weight[case.plain.target], float(head.bias[case.plain.target])
        assert found.layer == case.network.layer
        maps = case.plain.maps[0]
    else:  # the class's own map is pooled
        weight, bias = torch.eye(len(CLASSES), dtype=torch.float64)[case.plain.target], 0.0
        maps = next(o for n, _, _, o in case.plain.leaves if n == found.layer)
    agree(found.values, torch.einsum("k,khw->hw", weight, maps[0]))
    close(explained, case.plain.clean - bias)
    close(found.evidence["bias"], bias)


@oracle("guided_backprop")
def _(case: Case) -> None:
    agree(case.run("guided_backprop").values, case.plain.through(Guided.apply)[0])


@oracle("deconvnet")
def _(case: Case) -> None:
    agree(case.run("deconvnet").values, case.plain.through(Rectified.apply)[0])


@oracle("rect_grad")
def _(case: Case) -> None:
    q = 60.0
    found = case.run("rect_grad", q=q, reduce="rgb")
    agree(found.values, (case.plain.through(thresholded(q)) * (case.plain.u - nothing(case)))[0])


@oracle("guided_grad_cam")
def _(case: Case) -> None:
    found = case.run("guided_grad_cam")
    a, g = case.plain.maps
    coarse = (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True).clamp(min=0)
    large = F.interpolate(coarse, case.plain.u.shape[2:], mode="bilinear", align_corners=False)
    agree(found.values, (large * case.plain.through(Guided.apply))[0])


@oracle("occlusion")
def _(case: Case) -> None:
    """Four windows that overlap, hidden one by one."""
    size, u = case.network.size, case.plain.u
    window, stride = 3 * size // 4, size // 4
    found = case.run("occlusion", window=window, stride=stride, layer=case.network.layer)
    corners = [(top, left) for top in (0, stride) for left in (0, stride)]
    hidden = u.repeat(4, 1, 1, 1)
    total, count = np.zeros((size, size)), np.zeros((size, size))
    for picture, (top, left) in zip(hidden, corners, strict=True):
        picture[:, top : top + window, left : left + window] = 0.5
        count[top : top + window, left : left + window] += 1
    with torch.no_grad():
        scores = case.plain.scores(hidden)
        maps = case.plain.maps_of(torch.cat([u, hidden]))
    for (top, left), score in zip(corners, scores[:, case.plain.target].tolist(), strict=True):
        total[top : top + window, left : left + window] += case.plain.clean - score
    agree(found.values, total / count)
    strongest = int(maps[0].sum((1, 2)).argmax())
    agree(found.panels["activity"].values, maps[1:, strongest].sum((1, 2)).view(2, 2))
    agree(found.panels["probability"].values, scores.softmax(1)[:, case.plain.target].view(2, 2))
    assert array(found.panels["most_probable"].values).tolist() == scores.argmax(1).view(2, 2).tolist()


def quarters(case: Case, fill: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """All 16 choices (16, 4) of the picture's quarters that are shown, and the scores with the others filled."""
    half, pictures = case.network.size // 2, fill.repeat(16, 1, 1, 1)
    chosen = np.arange(16)[:, None] >> np.arange(4) & 1
    boxes = [(slice(r, r + half), slice(c, c + half)) for r in (0, half) for c in (0, half)]
    for picture, row in zip(pictures, chosen, strict=True):
        for here, box in zip(row, boxes, strict=True):
            if here:
                picture[:, box[0], box[1]] = case.plain.u[0, :, box[0], box[1]]
    with torch.no_grad():
        parts = [case.plain.scores(p)[:, case.plain.target] for p in pictures.split(4)]
    return chosen, array(torch.cat(parts))


@oracle("shapley")
def _(case: Case) -> None:
    """Four quarters, every order of adding them to middle grey."""
    _, scores = quarters(case, torch.full_like(case.plain.u, 0.5))
    want = np.zeros(4)
    for order in permutations(range(4)):
        before = 0
        for player in order:
            want[player] += (scores[before | 1 << player] - scores[before]) / 24
            before |= 1 << player
    half = case.network.size // 2
    agree(case.run("shapley", grid=2).values, np.kron(want.reshape(2, 2), np.ones((half, half))), 1e-8)


@oracle("lime")
def _(case: Case) -> None:
    """Four quarters, every choice of them counted as often as any: ridge written out, intercept unpunished."""
    chosen, scores = quarters(case, torch.zeros_like(case.plain.u))
    found = case.run("lime", players="grid", grid=2, fill="black", samples=160)
    weights = 10 * np.exp(-((1 - np.sqrt(chosen.mean(1))) ** 2) / 0.25**2) ** 0.5
    columns = np.column_stack([np.ones(16), chosen])
    square = columns.T @ (weights[:, None] * columns) + np.diag([0.0, 1, 1, 1, 1])
    want = np.linalg.solve(square, columns.T @ (weights * scores))
    agree(found.evidence["coefficients"], want[1:], 1e-8)
    close(found.evidence["intercept"], want[0], 1e-8)


@oracle("rise")
def _(case: Case) -> None:
    """Four masks made again from the run's seed."""
    size, cells = case.network.size, 2
    found = case.run("rise", samples=4, cells=cells, fill="black", centre=False)
    first = torch.Generator().manual_seed(0)  # the run's own seed, which gives the seed of the masks
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=first)))
    coins = (torch.rand(4, cells, cells, generator=generator) < 0.5).double()
    block = -(-size // cells)
    shifts = (torch.rand(4, 2, generator=generator, dtype=torch.float64) * block).long().tolist()
    large = F.interpolate(coins[:, None], size=(cells + 1) * block, mode="bilinear", align_corners=False)
    masks = torch.stack([m[:, t : t + size, s : s + size] for m, (t, s) in zip(large, shifts, strict=True)])
    with torch.no_grad():
        scores = case.plain.scores(masks * case.plain.u)[:, case.plain.target]
    agree(found.values, (scores.view(4, 1, 1) * masks[:, 0]).mean(0) / 0.5)


@oracle("deeplift")
def _(case: Case) -> None:
    """The shares add up to the rise from black; against almost the same picture they are gradient times difference."""
    found = case.run("deeplift")
    close(found.values.sum(), rise(case))
    u = case.plain.u
    step = 1e-7 * torch.randn(u.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    near = case.run("deeplift", baseline=u - step, reduce="rgb").values
    shares, slope = near / array(step[0]), array(case.plain.slope(u - step / 2)[0])
    assert np.linalg.norm(shares - slope) <= 1e-2 * np.linalg.norm(slope)  # a unit in many bends in between


@oracle("lrp")
def _(case: Case) -> None:
    """Nothing gets lost on the way from the bare network's score; LRP-0 of a ReLU network is gradient times input."""
    found = case.run("lrp").evidence
    accounted = found["sum"] + found["biases"] + found["stabilisers"] + found["nowhere"]
    close(accounted, case.plain.clean, 1e-7)
    zero = case.run("lrp", composite="zero", epsilon=0, reduce="rgb")
    close(zero.values.sum() + zero.evidence["biases"] + zero.evidence["nowhere"], case.plain.clean, 1e-7)
    if case.network.rectified:
        slope = case.plain.through(Secant.apply)
        agree(zero.values, ((case.plain.u - colour(case.network.zero)) * slope)[0], 1e-7)


@oracle("activation_grid")
def _(case: Case) -> None:
    found = case.run("activation_grid", layers=case.network.layer)
    agree(found.values, case.plain.maps[0][0][:1024])


@oracle("activation_mask")
def _(case: Case) -> None:
    maps = array(case.plain.maps[0][0])
    found = case.run("activation_mask", layer=case.network.layer)
    unit = int(maps.reshape(len(maps), -1).max(1).argmax())
    assert found.evidence["unit"] == unit
    threshold = np.quantile(maps[unit], 0.95)
    close(found.evidence["threshold"], threshold)
    size = case.network.size
    heat = between(between(maps[unit], case.network.centre, size).T, case.network.centre, size).T
    agree(found.values, heat)
    u = array(case.plain.u[0])
    agree(found.panels["mask"].values, np.where(heat > threshold, u, u / 4))


def between(maps: np.ndarray, centre: tuple[float, float] | None, pixels: int) -> np.ndarray:
    """Rows at every pixel, linear between the pixels under them; without a centre they lie evenly."""
    step = pixels / len(maps)
    first, step = centre if centre is not None else ((step - 1) / 2, step)
    places = first + step * np.arange(len(maps))
    return np.stack([np.interp(np.arange(pixels), places, column) for column in maps.T], 1)


@oracle("activation_factors")
def _(case: Case) -> None:
    """SVD is Eckart & Young's; NMF has no negative part and fits no worse than multiplicative updates by hand."""
    maps = array(case.plain.maps[0][0])
    v, count = maps.reshape(len(maps), -1).T, 2
    kept = np.linalg.svd(v, compute_uv=False) ** 2
    at = {"layer": case.network.layer, "factors": count}
    svd = case.run("activation_factors", kind="svd", **at)
    close(svd.evidence["explained"], kept[:count].sum() / kept.sum())
    agree(product(svd), best(v, count), 1e-6)
    nmf = case.run("activation_factors", **at)
    assert nmf.values.min() >= 0
    assert np.min(nmf.evidence["directions"]) >= 0
    lost = float(((v - product(nmf)) ** 2).sum())
    close(nmf.evidence["explained"], 1 - lost / kept.sum())
    numbers = np.random.default_rng(0)
    w, h = numbers.random((len(v), count)), numbers.random((count, v.shape[1]))
    for _ in range(300):  # Lee & Seung 2001, eq. 4
        h *= (w.T @ v) / np.maximum(w.T @ w @ h, 1e-300)
        w *= (v @ h.T) / np.maximum(w @ h @ h.T, 1e-300)
    assert lost <= 1.02 * float(((v - w @ h) ** 2).sum())


def product(found: object) -> np.ndarray:
    maps = array(found.values)  # type: ignore[attr-defined]
    return maps.reshape(len(maps), -1).T @ array(found.evidence["directions"])  # type: ignore[attr-defined]


def best(v: np.ndarray, count: int) -> np.ndarray:
    u, s, right = np.linalg.svd(v, full_matrices=False)
    return (u[:, :count] * s[:count]) @ right[:count]


@oracle("building_blocks")
def _(case: Case) -> None:
    """At the longest activation and another off the diagonal: channels and shares by hand, and no better weights."""
    maps = array(case.plain.maps[0][0])
    length = np.sqrt((maps**2).sum(0))
    beside = np.where(np.eye(*length.shape) == 1, 0, length)
    first, second = (tuple(np.argwhere(n == n.max())[0].tolist()) for n in (length, beside))
    negative = maps.min() < 0
    for place, position in ((first, None), (second, "{},{}".format(*second))):
        at = {"layer": case.network.layer, "position": position}
        found = case.run("building_blocks", **at, groups=0 if negative else 2)
        there = maps[:, *place]
        assert found.evidence["place"] == place
        close(found.evidence["length"], length[place])
        order = sorted(range(len(there)), key=lambda c: (-abs(there[c]), c))[:8]
        assert [int(name.rpartition(":")[2]) for name in found.rows] == order
        agree(found.values, np.stack([there[order], np.abs(there[order]) / np.abs(there).sum()], 1))
        close(found.evidence["together"], np.abs(there[order]).sum() / np.abs(there).sum())
        if negative:
            assert any("negative" in note for note in case.run("building_blocks", **at).notes)
        else:
            weights, directions = (array(found.evidence[name]) for name in ("groups", "directions"))
            assert min(weights.min(), directions.min()) >= 0
            left = apart(there, weights @ directions)
            close(found.evidence["left over"], left)
            least = least_apart(there, directions)
            assert least - 1e-9 <= left <= least + 0.01, (left, least)


def apart(there: np.ndarray, made: np.ndarray) -> float:
    return float(np.linalg.norm(there - made) / np.linalg.norm(there))


def least_apart(there: np.ndarray, directions: np.ndarray) -> float:
    """How near sums of two directions with weights from 0 can come, over every choice of those that take part."""
    least = 1.0
    for support in ([0], [1], [0, 1]):
        weights, *_ = np.linalg.lstsq(directions[support].T, there, rcond=None)
        if weights.min() >= 0:
            least = min(least, apart(there, weights @ directions[support]))
    return least


@oracle("effective_receptive_field")
def _(case: Case) -> None:
    draws, size = 2, case.network.size
    found = case.run("effective_receptive_field", layer=case.network.layer, draws=draws)
    generator = torch.Generator().manual_seed(0)  # the run's own seed
    u = torch.rand(draws, 3, size, size, generator=generator, dtype=torch.float64).requires_grad_()
    maps = case.plain.maps_of(u)
    row, column = (n // 2 for n in maps.shape[2:])
    (g,) = torch.autograd.grad(maps[:, :, row, column].mean(1).sum(), u)
    heat = g.square().sum(1).mean(0)
    agree(found.values, heat)
    close(found.evidence["side_participation"], float(heat.sum() / heat.square().sum().sqrt()))


@oracle("sparse_coding")
def _(case: Case) -> None:
    """Weak duality: any feasible dual point lies below the least objective, so the gap proves how near the code is."""
    name, module = case.plain.convolutions[0]
    stride = max(1, module.kernel_size[0] // 2)
    found = case.run("sparse_coding", stride=stride, steps=12)
    assert found.layer == name
    filters = module.weight / module.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    y, made = (
        case.network.normalised(case.plain.u),
        case.network.normalised(torch.from_numpy(array(found.values))[None]),
    )
    lam, last = found.evidence["lam"], found.evidence["objective"][-1]
    side = module.kernel_size[0]

    def fits(t: Tensor) -> Tensor:
        """<f_i, t> at every place: the first begins outside the picture, the last ends beyond it."""
        return F.conv2d(F.pad(t, (side - 1,) * 2 * 2), filters, stride=stride)

    close(lam, 10 / float(fits(y).abs().max()))
    dual = lam * (y - made)
    beyond = F.pad(dual, (side - 1, side - 1 + stride) * 2)
    dual = dual / max(1.0, float(F.conv2d(beyond, filters, stride=stride).abs().max()))
    least = float((dual * y).sum() - dual.square().sum() / (2 * lam))
    assert least <= last <= 0.9 * found.evidence["objective"][0]
    close(found.evidence["relative_gap"], (last - least) / last)
    close(found.evidence["relative_error"], float((y - made).norm() / y.norm()))
    if len(filters) <= 16:
        sizes = found.panels["coefficients"].values.sum()
        close(last, float(lam / 2 * (y - made).square().sum()) + float(sizes))


@oracle("saliency_segmentation")
def _(case: Case) -> None:
    """Seeds from the bare network's gradient, smoothed by hand; one connected mask that keeps clear of background."""
    found = case.run("saliency_segmentation")
    heat = gaussian(array(case.plain.gradient[0].abs().amax(0)), 0.02 * case.network.size)
    agree(found.panels["saliency"].values, heat)
    seeds = array(found.panels["seeds"].values)
    assert ((seeds == 2) == (heat >= np.quantile(heat, 0.95))).all()
    assert ((seeds == 1) == (heat <= np.quantile(heat, 0.3))).all()
    mask = array(found.values) == 1
    assert set(np.unique(array(found.values))) == {0, 1}
    assert not (mask & (seeds == 1)).any()
    assert (connected(mask) == mask).all()
    assert found.evidence["box"] == extent(mask)
    close(found.evidence["saliency inside"], heat[mask].sum() / heat.sum())


@oracle("salient_objects")
def _(case: Case) -> None:
    """Every box is the extent of its piece, every piece one connected level set, every score inside less around."""
    found = case.run("salient_objects")
    heat = gaussian(array(case.plain.gradient[0].abs().amax(0)), 0.04 * case.network.size)
    agree(found.panels["saliency"].values, heat)
    scaled = (heat - heat.min()) / (heat.max() - heat.min())
    numbers = array(found.panels["instances"].values)
    boxes, scores = found.evidence["boxes"], found.evidence["scores"]
    assert len(boxes) == len(scores) == numbers.max() >= 1
    for k, (box, score) in enumerate(zip(boxes, scores, strict=True), 1):
        mask = numbers == k
        assert list(box) == extent(mask)
        assert (connected(mask) == mask).all()
        edge = np.floor(scaled[mask].min() * 21 + 1e-12) / 21  # of 20 levels between 0 and 1
        assert (connected(scaled >= edge, start=tuple(np.argwhere(mask)[0])) == mask).all()
        top, left, bottom, right = box
        high, wide = max(1, (bottom - top) // 2), max(1, (right - left) // 2)
        near = np.zeros_like(mask)
        near[max(top - high, 0) : bottom + high, max(left - wide, 0) : right + wide] = True
        around = scaled[near & ~mask]
        contrast = (scaled[mask].mean() - around.mean()) * min(1.0, around.size / mask.sum())
        close(score, contrast)
        agree(found.values[mask], np.full(int(mask.sum()), contrast))
    assert (array(found.values)[numbers == 0] == 0).all()


def gaussian(heat: np.ndarray, sigma: float) -> np.ndarray:
    """Both sides times a matrix of Gaussian weights, cut at 3 sigma, each row adding up to 1."""
    apart = np.subtract.outer(np.arange(len(heat)), np.arange(len(heat)))
    weights = np.where(np.abs(apart) <= max(1, round(3 * sigma)), np.exp(-(apart**2) / (2 * sigma**2)), 0)
    weights /= weights.sum(1, keepdims=True)
    blurred: np.ndarray = weights @ heat @ weights.T
    return blurred


def connected(mask: np.ndarray, start: tuple[int, ...] | None = None) -> np.ndarray:
    """What can be reached from a pixel of the mask, the first unless said, across sides and corners."""
    found = np.zeros_like(mask)
    found[tuple(np.argwhere(mask)[0]) if start is None else start] = True
    while True:
        padded = np.pad(found, 1)
        grown = np.zeros_like(found)
        for down in range(3):
            for right in range(3):
                grown |= padded[down : down + found.shape[0], right : right + found.shape[1]]
        grown &= mask
        if (grown == found).all():
            return found
        found = grown


def extent(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1]


def rise(case: Case) -> float:
    """The score's rise from black."""
    return case.plain.clean - case.plain.score(torch.zeros_like(case.plain.u))


def nothing(case: Case) -> Tensor:
    """The colour that becomes 0 at the network's entrance."""
    return colour(case.network.mean) / case.network.range


def colour(rgb: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1)
