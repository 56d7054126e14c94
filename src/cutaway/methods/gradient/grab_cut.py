"""GrabCut from seeds, and the connected pieces of a mask: all that is asked of OpenCV."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cutaway.core.errors import missing

Mask = npt.NDArray[np.bool_]
Keep = Literal["fixed", "free"]

COMPONENTS = 5
"""Gaussians in each of the two colour models (Rother 2004, sec. 3.1)."""

_ONE_AT_A_TIME = Lock()


def opencv(why: str) -> Any:
    """The module `cv2`; raises `MissingDependencyError` where it is absent."""
    try:
        import cv2
    except ImportError as error:
        raise missing("opencv-python-headless", "segment", why) from error
    return cv2


def grab_cut(
    image: npt.NDArray[np.uint8],
    foreground: Mask,
    background: Mask,
    *,
    iterations: int = 5,
    keep: Keep = "fixed",
) -> Mask:
    """The pixels (H, W) that belong with the foreground seeds, by colour and by borders in the picture.

    GrabCut (Rother, Kolmogorov & Blake 2004, doi:10.1145/1015706.1015720): two mixtures of 5 Gaussians describe
    the colours of both sides; a minimum cut labels the pixels, the mixtures are fitted to the labels, and so on.
    The first cut uses mixtures of the seeds alone, so a pixel that is no seed starts on neither side. Seeds hold
    their label throughout with `keep="fixed"`; with "free" they only give the first mixtures, as in Simonyan 2014,
    sec. 3.2. `image` is (H, W, 3); each kind of seed needs at least 5 pixels.

    The same bits for the same picture: OpenCV draws the centres of its clusters at random, here in a thread of its
    own with a fixed seed, since OpenCV keeps one generator for each thread; the caller's is not touched.
    """
    cv2 = opencv("GrabCut")

    def work() -> Mask:
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        certain = np.concatenate([image[background], image[foreground]])[None]
        sides = np.repeat([cv2.GC_BGD, cv2.GC_FGD], [background.sum(), foreground.sum()])
        cv2.grabCut(certain, sides[None].astype(np.uint8), None, *models, 1, cv2.GC_INIT_WITH_MASK)
        label = np.full(image.shape[:2], cv2.GC_PR_BGD, np.uint8)
        if keep == "fixed":
            label[background], label[foreground] = cv2.GC_BGD, cv2.GC_FGD
        cv2.grabCut(image, label, None, *models, 1, cv2.GC_EVAL_FREEZE_MODEL)
        for _ in range(iterations - 1):
            if len(np.unique(label & 1)) < 2:  # one side took every pixel: there is nothing left to fit
                break
            cv2.grabCut(image, label, None, *models, 1, cv2.GC_EVAL)
        inside: Mask = (label & 1).astype(bool)  # GC_FGD and GC_PR_FGD are the odd ones
        return inside

    with _ONE_AT_A_TIME, ThreadPoolExecutor(1) as apart:  # the number of threads belongs to the whole process
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            return apart.submit(work).result()
        finally:
            cv2.setNumThreads(threads)


def pieces(mask: Mask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Connected pieces of a mask (H, W), neighbours across corners included.

    Gives the number of each pixel's piece, 0 outside and from 1 inside, and the pixels of each piece, background
    first.
    """
    cv2 = opencv("connected components")
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return labels, np.bincount(labels.ravel(), minlength=count)


def largest_piece(mask: Mask) -> Mask:
    """The largest connected piece of a mask; of several as large the one met first, row by row."""
    labels, sizes = pieces(mask)
    if len(sizes) < 2:
        return mask
    largest: Mask = labels == 1 + int(sizes[1:].argmax())
    return largest
