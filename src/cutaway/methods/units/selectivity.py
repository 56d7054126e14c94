"""What a unit's best patches say about it: its neuron feature and its selectivity indexes.

Rafegas, Vanrell, Alexandre and Arias 2020, arXiv:1702.00382. A unit's top list holds the activations
a_1 >= ... >= a_N of its N best patches I_j, one per picture; w_j = a_j / a_1. A patch that does not excite the unit
(a_j <= 0, as behind a ReLU when fewer than N pictures do) carries no weight in any index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.core.errors import InputError, MethodRefusedError, UsageError

WANTED = 100
"""Patches in the published top lists."""

_ROUNDING = 1e-9
"""Shares are sums of at most some thousand float64 numbers; a threshold of 1 must be reachable."""


@dataclass(frozen=True)
class ClassSelectivity:
    """Which classes a unit's best patches come from.

    `index` is gamma, `needed` the M of its formula, `classes` (m,) the class numbers by falling share, `shares`
    (m,) float64 their f, which sum to 1.
    """

    index: float
    needed: int
    classes: Tensor
    shares: Tensor


@dataclass(frozen=True)
class PopulationCode:
    """How many classes share a unit.

    `count` classes have a share of at least the asked one, `classes` (count,) are they; `entropy` is that of all
    shares in bits, so that 2 ** entropy is the number of equally frequent classes that would be as mixed.
    """

    count: int
    classes: Tensor
    entropy: float


def neuron_feature(values: Tensor, crops: Tensor) -> Tensor:
    """The mean of a unit's best patches, weighted by its activations: NF = sum_j w_j I_j / sum_j w_j, (3, h, w).

    Parameters
    ----------
    values : (k,) activations.
    crops : (k, 3, h, w) the *unclipped* receptive fields in [0, 1], so that patches at the border of a picture lie
        under the others; what is beyond the picture is mid-grey (`fields.crops` makes them).

    The result lies in [0, 1] like the crops. Raises `MethodRefusedError` for a dead unit.

    >>> red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    >>> crops = torch.stack([red, blue])[:, :, None, None]
    >>> neuron_feature(torch.tensor([3.0, 1.0]), crops).flatten().tolist()
    [0.75, 0.0, 0.25]
    """
    weights, alive = _weights(values)
    if crops.ndim != 4 or len(crops) != len(values):
        raise UsageError(f"crops {tuple(crops.shape)} for {len(values)} values", "(k, 3, h, w)")
    mean = torch.einsum("k,kchw->chw", weights, crops[alive].double()) / weights.sum()
    return mean.to(crops.dtype)


def colour_selectivity(values: Tensor, grey_values: Tensor, *, bounded: bool = False) -> float:
    """How much of a unit's activity colour carries: alpha = 1 - sum_j a'_j / sum_j a_j.

    Parameters
    ----------
    values : (k,) activations of its best patches.
    grey_values : (k,) its activations a'_j at the same positions of their grey versions.
    bounded : mean_j (1 - clip(a'_j / a_j, 0, 1)) instead, which cannot leave [0, 1].

    0 is a unit that answers grey pictures as well, 1 one that does not answer them. The plain index is below 0
    where grey excites the unit more, and above 1 where it gives negative activations.
    Raises `MethodRefusedError` for a dead unit.

    >>> colour_selectivity(torch.tensor([2.0, 2.0]), torch.tensor([0.0, 3.0]))
    0.25
    >>> colour_selectivity(torch.tensor([2.0, 2.0]), torch.tensor([0.0, 3.0]), bounded=True)
    0.5
    """
    a, grey = _pair(values, grey_values)
    if bounded:
        return float((1 - (grey / a).clamp(0, 1)).mean())
    return float(1 - grey.sum() / a.sum())


def activity_lost(values: Tensor, changed: Tensor) -> float:
    """1 - the mean relative activation after a change of the patches: 1 - mean_j a'_j / a_j.

    Parameters
    ----------
    values : (k,) activations of its best patches.
    changed : (k,) or (r, k) activations at the same positions of r changed versions; r of them are averaged.

    With turned patches this is the orientation index, with mirrored ones the symmetry index (of a mirror symmetry
    that the unit wants: 0 is a unit that does not tell a patch from its mirror image), with shuffled pixels the
    shape index. Rafegas et al. define these as the activity that is lost but print no formula; this is Cutaway's.
    0 is nothing lost, 1 all; below 0 where the change helps. Raises `MethodRefusedError` for a dead unit.

    >>> activity_lost(torch.tensor([4.0, 2.0]), torch.tensor([[4.0, 2.0], [0.0, 1.0]]))
    0.375
    """
    a, after = _pair(values, changed)
    return float(1 - (after / a).mean())


def class_selectivity(values: Tensor, labels: Tensor, *, threshold: float = 1.0) -> ClassSelectivity:
    """How few classes a unit's best patches come from: gamma = (N - M) / (N - 1).

    Parameters
    ----------
    values : (k,) activations.
    labels : (k,) class number of each patch's picture.
    threshold : in (0, 1]; M is the smallest number of classes whose shares f_c = sum_{j in c} w_j / sum_j w_j
        reach it. The published value is not known; with 1, M is the number of classes that occur.

    1 is one class, 0 as many classes as patches; N counts the patches that excite the unit. Raises
    `MethodRefusedError` for a dead unit or a single patch, `InputError` for pictures of unknown class.

    >>> found = class_selectivity(torch.tensor([3.0, 3.0, 2.0]), torch.tensor([7, 7, 4]))
    >>> found.index, found.classes.tolist(), found.shares.tolist()
    (0.5, [7, 4], [0.75, 0.25])
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold={threshold}", "above 0, up to 1", "threshold=1")
    count = int((values > 0).sum())
    classes, shares = class_shares(values, labels)
    if count < 2:
        raise MethodRefusedError("one patch has one class, whatever the unit", "2 or more", "more pictures")
    needed = int((shares.cumsum(0) < threshold - _ROUNDING).sum()) + 1
    return ClassSelectivity((count - needed) / (count - 1), needed, classes, shares)


def population_code(values: Tensor, labels: Tensor, *, share: float = 0.1) -> PopulationCode:
    """How many classes hold at least `share` of a unit's weight, and the entropy of all shares in bits.

    Raises as `class_shares` does.

    >>> code = population_code(torch.ones(16), torch.tensor([0] * 8 + [1] * 7 + [2]))
    >>> code.count, code.classes.tolist(), round(code.entropy, 3)
    (2, [0, 1], 1.272)
    """
    if not 0 < share <= 1:
        raise UsageError(f"share={share}", "above 0, up to 1", "share=0.1")
    classes, shares = class_shares(values, labels)
    enough = shares >= share - _ROUNDING
    entropy = -(shares * shares.log2()).sum()
    return PopulationCode(int(enough.sum()), classes[enough], float(entropy.clamp(min=0)))


def class_shares(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The classes (m,) of a unit's best patches and their shares f (m,) of its weight, the largest first.

    Equal shares stand by class number. Raises `MethodRefusedError` for a dead unit, `InputError` for pictures of
    unknown class (-1), `UsageError` for labels that do not fit.

    >>> class_shares(torch.tensor([2.0, 1.0, 1.0]), torch.tensor([3, 5, 3]))[1].tolist()
    [0.75, 0.25]
    """
    weights, alive = _weights(values)
    if labels.shape != values.shape or labels.is_floating_point():
        raise UsageError(f"labels {tuple(labels.shape)} for {len(values)} values", "one class number a value")
    labels = labels[alive]
    if bool((labels < 0).any()):
        unknown = int((labels < 0).sum())
        raise InputError(
            f"{unknown} of {len(labels)} patches come from pictures of unknown class",
            "pictures with labels",
            "a folder per class",
        )
    classes, at = torch.unique(labels, return_inverse=True)
    shares = weights.new_zeros(len(classes)).index_add_(0, at, weights) / weights.sum()
    order = shares.argsort(descending=True, stable=True)
    return classes[order], shares[order]


def similarity(values: Tensor, elsewhere: Tensor) -> float:
    """How much unit a answers to what unit b looks for: sum_j a(I_j^b) / sum_j a_j.

    Parameters
    ----------
    values : (k,) activations of a on its own best patches.
    elsewhere : (k,) activations of a at the positions of b's best patches.

    1 for a unit and itself, 0 where b's patches leave a silent; not symmetric. Raises `MethodRefusedError` for a
    dead unit.

    >>> similarity(torch.tensor([4.0, 2.0]), torch.tensor([3.0, 0.0]))
    0.5
    """
    _weights(values)
    if elsewhere.shape != values.shape:
        raise UsageError(f"{tuple(elsewhere.shape)} activations on the other's patches", f"{len(values)}")
    return float(elsewhere.double().sum() / values.double().clamp(min=0).sum())


def shortfall(values: Tensor, wanted: int = WANTED) -> tuple[str, ...]:
    """A note where a top list holds fewer exciting patches than wanted, otherwise nothing.

    >>> shortfall(torch.tensor([2.0, 1.0, 0.0]), 3)
    ('2 patches excite this unit, fewer than the 3 asked for: its indexes rest on these',)
    """
    count = int((values > 0).sum())
    if count >= wanted:
        return ()
    patches = "1 patch excites" if count == 1 else f"{count} patches excite"
    return (f"{patches} this unit, fewer than the {wanted} asked for: its indexes rest on these",)


def _weights(values: Tensor) -> tuple[Tensor, Tensor]:
    """w_j = a_j / a_1 of the patches that excite the unit, float64, and which ones these are, (k,) bool."""
    if values.ndim != 1 or len(values) == 0:
        raise UsageError(f"values of shape {tuple(values.shape)}", "(k,), one activation a patch")
    if not bool(torch.isfinite(values).all()):
        raise InputError("activations with NaN or infinity", "finite activations", "other weights")
    best = float(values.max())
    if best <= 0:
        raise MethodRefusedError(
            f"the unit is dead: its highest activation is {best:g}", "a unit that answers", "another unit"
        )
    alive = values > 0
    return values[alive].double() / best, alive


def _pair(values: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
    """Activations of the exciting patches before (k,) and after (..., k) a change, float64."""
    alive = _weights(values)[1]
    if changed.shape[-1:] != values.shape:
        raise UsageError(f"{_shape(changed.shape)} changed activations", f"{len(values)}, one a patch")
    if not bool(torch.isfinite(changed).all()):
        raise InputError("activations with NaN or infinity", "finite activations", "other weights")
    return values[alive].double(), changed[..., alive].double()


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "0-dimensional"
