"""Methods that look at the weights alone, each checked against the raw weights."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .case import Case, agree, array, close, oracle
from .plain import Step, chain, run, window


@oracle("filters")
def _(case: Case) -> None:
    name, module = case.plain.convolutions[0]
    found = case.run("filters")
    assert found.layer == name
    agree(found.values, module.weight[:1024], 0)


@oracle("first_layer")
def _(case: Case) -> None:
    _, m = case.plain.convolutions[0]
    found = case.run("first_layer")
    given = next(i for _, module, i, _ in case.plain.leaves if module is m)
    agree(found.values, F.conv2d(given, m.weight, m.bias, m.stride, m.padding, m.dilation)[0])
    agree(found.panels["filters"].values, m.weight, 0)


@oracle("filter_planes")
def _(case: Case) -> None:
    name, module = (
        case.plain.convolutions[1] if len(case.plain.convolutions) > 1 else case.plain.convolutions[0]
    )
    found = case.run("filter_planes", rows=8, columns=1024)
    assert found.layer == name
    agree(found.values, module.weight[:8].flatten(0, 1), 0)


@oracle("convolution_matrix")
def _(case: Case) -> None:
    name, m = case.plain.convolutions[0]
    found = case.run("convolution_matrix", size=16, output=1, input=2)
    assert found.layer == name
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = F.conv2d(x, m.weight[1:2, 2:3], None, m.stride, m.padding, m.dilation)
    agree(array(found.values[0]) @ array(x).ravel(), y.flatten())


@oracle("optimal_stimulus")
def _(case: Case) -> None:
    """By Cauchy & Schwarz no stimulus of that energy answers more, and this one answers exactly that much."""
    _, m = case.plain.convolutions[0]
    found = case.run("optimal_stimulus", energy=4)
    values = torch.from_numpy(array(found.values))
    agree(values.flatten(1).norm(dim=1), torch.full((len(values),), 2.0))
    answers = F.conv2d(values, m.weight[:1024]).flatten(1).diagonal()
    agree(answers, 2 * m.weight[:1024].flatten(1).norm(dim=1))
    agree(found.evidence["response"], answers)


@oracle("effective_filters")
def _(case: Case) -> None:
    """The kernel answers to a patch what the layers answer, one after the other, without padding and bends."""
    found = case.run("effective_filters", pool="mean")
    steps = chain(case.plain, found.layer)
    assert [s.name for s in steps if s.name] == list(found.evidence["layers"])
    side = window(steps)
    assert found.values.shape[2:] == (side, side)
    x = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answers = run(steps, x)[:, : len(found.values), 0, 0]
    kernel, bias = (torch.from_numpy(array(t)) for t in (found.values, found.evidence["bias"]))
    agree(torch.einsum("oiyx,niyx->no", kernel, x) + bias, answers)


@oracle("filter_arrangement")
def _(case: Case) -> None:
    """At every tap of a few filters the lower filter with the largest weight, times that weight."""
    found = case.run("filter_arrangement")
    steps = chain(case.plain, found.layer)
    last = max(i for i, s in enumerate(steps) if s.name)
    below = max(i for i, s in enumerate(steps[:last]) if s.name)
    between = [s for s in steps[below + 1 : last] if s.reach == 1]
    tiles = kernel(steps[: below + 1] + between)
    top = kernel(steps[last:])
    height, width = tiles.shape[2:]
    for unit in (0, 5):
        for row in range(top.shape[2]):
            for column in range(top.shape[3]):
                lower = int(top[unit, :, row, column].abs().argmax())
                cell = array(found.values)[unit, :, row * height :, column * width :][:, :height, :width]
                agree(cell, top[unit, lower, row, column] * tiles[lower])


def kernel(steps: list[Step]) -> Tensor:
    """The one convolution that affine steps make up, by what they answer to single pixels."""
    channels, side = inputs(steps), window(steps)
    nothing = torch.zeros(1, channels, side, side, dtype=torch.float64)
    pixels = torch.eye(channels * side * side, dtype=torch.float64).view(-1, channels, side, side)
    with torch.no_grad():
        answers = run(steps, pixels) - run(steps, nothing)
    return answers[:, :, 0, 0].T.reshape(-1, channels, side, side)


def inputs(steps: list[Step]) -> int:
    """How many channels the first step takes."""
    for channels in (3, *range(1, 1025)):
        try:
            run(steps, torch.zeros(1, channels, window(steps), window(steps), dtype=torch.float64))
        except RuntimeError:
            continue
        return channels
    raise AssertionError("the steps take no picture")


@oracle("weight_factors")
def _(case: Case) -> None:
    _, m = case.plain.convolutions[0]
    w = array(m.weight.flatten(1))
    found = case.run("weight_factors", components=4)
    s = np.linalg.svd(w, compute_uv=False)
    agree(found.evidence["singular_values"], s)
    close(found.evidence["energy_drawn"], (s[:4] ** 2).sum() / (s**2).sum())
    v = array(found.values).reshape(4, -1)
    agree(v @ v.T, np.eye(4))
    agree(v @ w.T @ w, s[:4, None] ** 2 * v, 1e-8)  # each is an eigenvector of W'W
    energy = [np.linalg.svd(f, compute_uv=False) ** 2 for f in array(m.weight).reshape(-1, *m.kernel_size)]
    planes = np.array([e[0] for e in energy]).reshape(len(w), -1).sum(1)
    if m.kernel_size[0] > 1:
        agree(found.evidence["separability"], planes / (w**2).sum(1))


@oracle("linear_templates")
def _(case: Case) -> None:
    found = case.run("linear_templates")
    module = case.plain.net.get_submodule(found.layer)
    z = case.network.normalised(case.plain.u)
    answers = torch.einsum("kchw,chw->k", torch.from_numpy(array(found.values)), z[0])
    given: list[Tensor] = []
    handle = module.register_forward_hook(lambda m, a, out: given.append(out))
    case.plain.raw_scores(z)
    handle.remove()
    agree(answers + torch.tensor(found.evidence["bias"], dtype=torch.float64), given[0][0])


@oracle("diagnosis")
def _(case: Case) -> None:
    """The spectrum as gratings: each filter under a Hann window against the cosine and sine of every frequency."""
    name, m = case.plain.convolutions[0]
    w = array(m.weight)
    found = case.run("diagnosis")
    assert found.layer == name
    size = np.sqrt((w**2).mean((1, 2, 3)))
    order = sorted(range(len(w)), key=lambda o: (-size[o], o))
    assert [int(row.rpartition(":")[2]) for row in found.rows] == order
    high, wide = w.shape[2:]
    windows = [0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, n + 1) / (n + 1)) for n in (high, wide)]
    count = 64  # frequencies along an axis; twice the kernel's side and more
    at = (np.arange(count) - count // 2) / count
    down, across = (np.exp(-2j * np.pi * np.outer(at, np.arange(n))) for n in (high, wide))
    seen = w * np.outer(*windows)
    energy = (np.abs(np.einsum("fy,oiyx,gx->oifg", down, seen, across)) ** 2).sum(1)
    total = energy.sum((1, 2))
    fast = (np.abs(at) > 0.5 / m.stride[0])[:, None] | (np.abs(at) > 0.5 / m.stride[1])[None]
    aliased = (energy * fast).sum((1, 2)) / total
    radius = np.hypot(at[:, None], at[None])
    table = array(found.values)
    agree(table[:, 0], size[order])
    agree(table[:, 1], np.minimum(size, 0.1)[order])
    assert np.abs(table[:, 2] - aliased[order]).max() <= 1e-9  # all 0 at stride 1
    for own, o in zip(table[:, 3], order, strict=True):  # two frequencies may have as much energy
        assert energy[o][np.isclose(radius, own, atol=1e-12)].max() >= (1 - 1e-9) * energy[o].max()
    rings = [(radius >= i / 20) & ((radius < (i + 1) / 20) | (i == 9)) for i in range(10)]
    shares = np.array([[e[ring].sum() for ring in rings] for e in energy]) / total[:, None]
    assert np.abs(np.array(found.evidence["frequency histogram"]) - shares.mean(0)).max() <= 1e-3
    close(sum(found.evidence["frequency histogram"]), 1)
    assert (found.evidence["dominant"], found.evidence["dead"]) == ((size > 0.1).sum(), 0)
    close(found.evidence["mean aliased"], aliased.mean())
