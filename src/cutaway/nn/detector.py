"""Detectors as classifiers: how sure one is to have found each class anywhere in the picture."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from cutaway.core.errors import UsageError

HOME = "torchvision.models.detection"
SCORES = (
    "a detector: the score of a class is the log-odds of its surest detection at 0.5, that of class 0 is 0"
)
NONE = -100.0  # log-odds of a class where no region is proposed at all


class ClassScores(nn.Module):
    """The scores (N, K) of a torchvision detector: of each class the surest of all detections, before any threshold.

    A score is a log-odds, log(p / (1 - p)) - log(t / (1 - t)), with p the largest confidence that the detector gives
    the class at any place, before overlapping boxes are dropped, and t `threshold`. It is above zero where the class
    is found at that threshold. Class 0, the background, has score 0, so that it is the answer where nothing is found;
    softmax of one class against it gives p back for t = 0.5. Differentiable in the picture but for which places the
    first stage proposes. The picture, in [0, 1] and at its own size, is resized and normalised by the detector itself.

    Parameters
    ----------
    network : a detector of torchvision (Faster, Mask and Keypoint R-CNN, SSD, RetinaNet, FCOS).
    threshold : confidence in (0, 1) from which on a detection counts.

    Raises `UsageError` for another network, and for a threshold out of range.
    """

    def __init__(self, network: nn.Module, threshold: float = 0.5) -> None:
        super().__init__()
        if not is_detector(network):
            raise UsageError(
                f"{type(network).__name__} is no detector of torchvision",
                "a network of torchvision.models.detection",
                "a module of your own that returns scores (N, K)",
            )
        if not 0 < threshold < 1:
            raise UsageError(f"threshold={threshold}", "above 0 and below 1", "threshold=0.5")
        self.network, self.threshold = network, threshold

    def forward(self, x: Tensor) -> Tensor:
        """(N, K) for pixels (N, 3, H, W)."""
        net: Any = self.network
        images, _ = net.transform(list(x))
        found = net.backbone(images.tensors)
        features = {"0": found} if isinstance(found, Tensor) else found
        surest = (
            _of_regions(net, images, features) if hasattr(net, "roi_heads") else _of_anchors(net, features)
        )
        above = surest - math.log(self.threshold / (1 - self.threshold))
        return torch.cat([torch.zeros_like(above[:, :1]), above[:, 1:]], 1)


def is_detector(network: nn.Module) -> bool:
    """Whether this is a detector of torchvision.

    >>> is_detector(nn.Linear(1, 1))
    False
    """
    return bool(_kinds(network) & {"GeneralizedRCNN", "SSD", "RetinaNet", "FCOS"})


def _of_regions(net: Any, images: Any, features: Any) -> Tensor:
    """Log-odds (N, K) from the regions that the first stage proposes."""
    proposals, _ = net.rpn(images, features)
    heads = net.roi_heads
    pooled = heads.box_roi_pool(features, proposals, images.image_sizes)
    logits, _ = heads.box_predictor(heads.box_head(pooled))
    return torch.stack([_surest(own) for own in logits.split([len(p) for p in proposals])])


def _of_anchors(net: Any, features: Any) -> Tensor:
    """Log-odds (N, K) from all anchors."""
    heads = net.head(list(features.values()))
    logits: Tensor = heads["cls_logits"]
    if "bbox_ctrness" in heads:  # p = sqrt(sigmoid(class) sigmoid(centre))
        log_p = (logsigmoid(logits) + logsigmoid(heads["bbox_ctrness"])) / 2
        return (log_p - torch.log(-torch.expm1(log_p))).amax(1)
    if "SSD" in _kinds(net):
        return torch.stack([_surest(own) for own in logits])
    return logits.amax(1)


def _surest(logits: Tensor) -> Tensor:
    """The largest log(p / (1 - p)) of each class, (K,), p = softmax of each row of (n, K); never rounded to p = 1.

    >>> _surest(torch.tensor([[0.0, 30.0, 0.0], [0.0, 0.0, 1.0]])).round(decimals=4)
    tensor([-1.3133, 29.3069,  0.3069])
    """
    count = logits.shape[1]
    if not len(logits):
        return logits.new_full((count,), NONE)
    rows = logits[logits.detach().log_softmax(1).argmax(0)]
    own = torch.eye(count, dtype=torch.bool, device=logits.device)
    return rows.diagonal() - rows.masked_fill(own, -torch.inf).logsumexp(1)


def _kinds(network: nn.Module) -> set[str]:
    return {kind.__name__ for kind in type(network).__mro__ if kind.__module__.startswith(HOME)}
