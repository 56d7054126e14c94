"""Superpixels by scikit-image: pieces of a picture that follow its edges."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import missing

Division = Literal["quickshift", "slic", "felzenszwalb"]


def superpixels(picture: Tensor, how: Division, why: str, **options: Any) -> Tensor:
    """The number of each pixel's piece, (H, W) from 0 without gaps, of a picture (C, H, W) in [0, 1].

    `options` are those of scikit-image's function of that name. Raises `MissingDependencyError` without scikit-image,
    saying that `why` needs it.
    """
    try:
        from skimage.segmentation import felzenszwalb, quickshift, slic
    except ImportError as error:
        raise missing("scikit-image", "segment", why) from error
    seen = picture.detach().expand(3, -1, -1).permute(1, 2, 0).double().cpu().numpy()
    divide = {"felzenszwalb": felzenszwalb, "quickshift": quickshift, "slic": slic}[how]
    found = divide(seen, **options)
    numbers = np.unique(found, return_inverse=True)[1].reshape(found.shape)
    return torch.from_numpy(numbers.astype(np.int64))
