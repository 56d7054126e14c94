"""Groups of pictures that look alike to a network: the facets of what a class or unit answers to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import missing

FEW = 12
"""With fewer different codes t-SNE has nothing to keep apart."""


@dataclass(frozen=True)
class Facets:
    """Groups of codes, the largest first.

    nearest : for each group the numbers of the codes nearest its centre, nearest first.
    sizes : how many codes each group has.
    map : (n, d), where the groups were found.
    """

    nearest: tuple[Tensor, ...]
    sizes: tuple[int, ...]
    map: Tensor


def facets_of(codes: Tensor, count: int, nearest: int, components: int, seed: int) -> Facets:
    """Up to `count` groups of codes (n, C): PCA, t-SNE to the plane, k-means.

    Few different codes, or codes along a line, go to k-means as they are.

    Raises `MissingDependencyError` without scikit-learn.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise missing("scikit-learn", "learn", "multifaceted_visualization") from error
    plane = principal(codes.double().cpu(), components)
    if count > 1 and plane.shape[1] > 1 and _different(plane) >= FEW:  # sklearn crashes on equal codes
        perplexity = min(30.0, (len(codes) - 1) / 3)
        spread = plane / plane[:, :1].std().clamp_min(1e-12)
        plane = torch.from_numpy(
            TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(spread.numpy())
        ).double()
    count = min(count, _different(plane))
    groups = KMeans(count, n_init=10, random_state=seed).fit(plane.numpy())
    centres, labels = torch.from_numpy(groups.cluster_centers_), torch.from_numpy(groups.labels_)
    sizes = torch.bincount(labels.long(), minlength=count)
    order = sizes.argsort(descending=True, stable=True)
    near = []
    for k in order.tolist():
        own = (labels == k).nonzero()[:, 0]
        distance = (plane[own] - centres[k]).norm(dim=1)
        near.append(own[distance.argsort(stable=True)[:nearest]])
    return Facets(tuple(near), tuple(sizes[order].tolist()), plane)


def _different(codes: Tensor) -> int:
    return len(np.unique(codes.numpy(), axis=0))


def principal(codes: Tensor, components: int) -> Tensor:
    """The codes (n, C) in the coordinates of their largest variances, (n, at most `components`).

    >>> principal(torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 5.0]]), 1).abs().round().tolist()
    [[2.0], [0.0], [2.0]]
    """
    centred = codes - codes.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    kept = min(components, *codes.shape)
    found: Tensor = u[:, :kept] * s[:kept]
    return found
