"""Methods that change the picture or a layer and ask again, each against pictures and hooks made by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .case import Case, agree, array, close, oracle
from .plain import replaced


@oracle("ablation")
def _(case: Case) -> None:
    """Four quarters, hidden one by one."""
    u, half = case.plain.u, case.network.size // 2
    found = case.run("ablation", grid=2, fill="black")
    right, total = np.zeros(u.shape[2:]), 0.0
    for rows in (slice(0, half), slice(half, None)):
        for columns in (slice(0, half), slice(half, None)):
            hidden = u.clone()
            hidden[:, :, rows, columns] = 0
            right[rows, columns] = case.plain.clean - case.plain.score(hidden)
            total += right[rows.start, columns.start]
    agree(found.values, right)
    whole = case.plain.clean - case.plain.score(torch.zeros_like(u))
    close(found.evidence["interaction"], whole - total)


@oracle("unit_ablation")
def _(case: Case) -> None:
    """The strongest channels and some of the weakest, each silenced by a hook."""
    layer, axis = case.network.layer, 1 if case.network.layout == "nchw" else -1
    found = case.run("unit_ablation", layer=layer)
    channels = [int(name.removeprefix(f"{layer}:")) for name in found.rows]
    assert sorted(channels) == list(range(case.model.layers.find(layer).units))
    some = [*range(4), *range(len(channels) // 2, len(channels), len(channels) // 4)]
    drops = []
    for i in some:

        def silence(t: Tensor, k: int = channels[i]) -> Tensor:
            return t.index_fill(axis, torch.tensor([k]), 0.0)

        with replaced(case.plain.net, case.network, leaf=False, change=silence):
            drops.append(case.plain.clean - case.plain.score(case.plain.u))
    agree(array(found.values)[some, 0], drops, 1e-8)


@oracle("invariance")
def _(case: Case) -> None:
    """Quarter turns, which interpolate nothing."""
    layer, u = case.network.layer, case.plain.u
    found = case.run("invariance", reach=270, points=4, first=layer, last=layer)
    turned = torch.cat([torch.rot90(u, k, (2, 3)) for k in range(4)])
    with torch.no_grad(), replaced(case.plain.net, case.network, leaf=False) as seen:
        scores = case.plain.scores(turned)
    features = seen[0].flatten(1)
    distances = (features - features[:1]).norm(dim=1)
    agree(found.values[0], distances, 1e-8)
    agree(found.values[1], distances, 1e-8)
    agree(found.values[2], scores.softmax(1)[:, case.plain.target], 1e-8)


@oracle("counterfactual")
def _(case: Case) -> None:
    """So little is asked for that the network is linear on the way: the one pixel with the largest |g| MAD moves."""
    u, slope = array(case.plain.u[0]), array(case.plain.gradient[0])
    mad = np.array([np.median(np.abs(c - np.median(c))) for c in u])[:, None, None]
    k = np.unravel_index(int(np.abs(slope * mad).argmax()), u.shape)
    move = 1e-6 * (1 if u[k] < 0.5 else -1)
    found = case.run("counterfactual", wanted=case.plain.clean + move * slope[k], steps=2)
    right = np.zeros_like(u)
    right[k] = move
    agree(found.values, right, 1e-2)  # a part in a hundred of the way is near enough
    close(found.evidence["cost"] * mad[k[0]].item() / abs(move), 1, 1e-2)
    after = case.plain.score(torch.from_numpy(array(found.panels["counterfactual"].values))[None])
    close(found.evidence["score of the counterfactual"], after)
