"""How alike pictures are by the statistics of their activations, so that several of one target can differ."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def likeness(maps: Tensor, draws: int) -> Tensor:
    """For each picture the mean cosine between its Gram matrix and those of the others of its group, (n,).

    `maps` (n, C, h, w), or (n, C), are the activations of groups of `draws` pictures that stand together. The Gram matrix is
    sum over places of a_i a_j (Olah et al. 2017, "Diversity"; Gatys et al. 2015, arXiv:1508.06576).

    >>> likeness(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, :, None, None], 3)
    tensor([0.5000, 0.5000, 0.0000])
    """
    flat = maps.flatten(2) if maps.ndim > 2 else maps[..., None]
    gram = functional.normalize((flat @ flat.transpose(1, 2)).flatten(1), dim=1)
    gram = gram.view(-1, draws, gram.shape[1])
    cosines = gram @ gram.transpose(1, 2)
    others = cosines.sum(2) - torch.diagonal(cosines, dim1=1, dim2=2)
    return others.flatten() / max(draws - 1, 1)
