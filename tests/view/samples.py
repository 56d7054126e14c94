"""Synthetic results over real photographs, for drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data

from cutaway.core.result import Attribution, Panel, Provenance

Array = npt.NDArray[Any]


def photo(name: str = "chelsea", size: int = 64) -> Array:
    """The central square of a photograph, (size, size, 3) in [0, 1]."""
    whole: Array = getattr(data, name)()[..., :3]
    side = min(whole.shape[:2])
    top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2
    crop = Image.fromarray(whole[top : top + side, left : left + side]).resize((size, size))
    return np.asarray(crop, np.float32) / 255


def provenance(image: str = "chelsea.jpg", model: str = "resnet18") -> Provenance:
    """A provenance such as the runner writes."""
    return Provenance(
        model=model,
        fingerprint="9f3a52c1e07b44d1",
        preprocess={"resize": 256, "crop": 224, "mean": [0.485, 0.456, 0.406]},
        image=image,
        seed=7,
        device="cpu",
        precision="float32",
        seconds=0.125,
        versions={"cutaway": "0.1.0", "torch": "2.15.0"},
    )


def attribution(values: Array, **changes: Any) -> Attribution:
    """An attribution over the cat."""
    fields: dict[str, Any] = {
        "method": "grad_cam",
        "target": "logit 285 'Egyptian cat'",
        "layer": "layer4",
        "values": values,
        "signed": True,
        "unit": "logit",
        "image": photo(),
        "provenance": provenance(),
    }
    return Attribution(**(fields | changes))


def bump(size: int, row: float = 0.5, column: float = 0.5, width: float = 0.2) -> Array:
    """A Gaussian hill of height 1 at a place given as shares of the picture."""
    y, x = np.mgrid[:size, :size] / (size - 1)
    return np.asarray(np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2)))


def panels(size: int = 9) -> dict[str, Panel]:
    """The panels of an occlusion sweep."""
    hill = bump(size)
    classes = np.where(hill > 0.6, 282, 285)
    return {
        "probability": Panel(
            "P(Egyptian cat)", 0.9 - 0.8 * hill, "unsigned", "probability", mark=(8, 16, 24, 40)
        ),
        "drop": Panel("drop of the logit", hill - 0.5, "signed", "logit"),
        "class": Panel(
            "most probable class", classes, "categorical", labels={282: "tiger cat", 285: "Egyptian cat"}
        ),
        "projection": Panel("projection", np.stack([hill] * 3), "picture"),
    }
