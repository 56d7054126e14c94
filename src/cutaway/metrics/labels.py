"""Whether a map depends on what the labels mean: beside a network of the same kind that learned random ones."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.model import VisionModel

from .metric import Again, metric
from .ranks import spearman


@metric(
    title="label randomization",
    asks="Does the map stay when the network has learned random labels?",
    low=-1,
    high=1,
    better="lower",
    passes=0.5,
    paper="Adebayo et al. 2018, arXiv:1810.03292, sec. 3.2 and 4",
)
def label_randomization(
    x: Tensor,
    heat: Tensor,
    again: Again,
    twin: VisionModel,
    *,
    absolute: Annotated[bool, "compare sizes, so that a change of sign is no change"] = False,
) -> float:
    """Spearman rank correlation of the map with that of a twin, for the same picture and target.

    The twin has the same architecture and was trained on permuted labels to the same training accuracy. A map that
    stays near 1 shows the picture and the architecture, not what was learned of the classes. The line at 0.5 is a
    convention: the paper draws none. Raises `UndefinedError` when either map is constant.
    """
    left = again(twin, x)
    return spearman(heat.abs(), left.abs()) if absolute else spearman(heat, left)


def check_twin(model: VisionModel, twin: VisionModel) -> None:
    """Raise `UsageError` for a twin that is not of the model's architecture, or is the model itself."""
    own, other = ({n: tuple(t.shape) for n, t in m.network.state_dict().items()} for m in (model, twin))
    if own != other:
        name = next(n for n in (*own, *other) if own.get(n) != other.get(n))
        raise UsageError(
            f"{twin.name} is no twin of {model.name}: {name} is {_size(other.get(name))}, not {_size(own.get(name))}",
            "the same architecture, trained on permuted labels",
        )
    if twin.fingerprint == model.fingerprint:
        raise UsageError(
            f"{twin.name} has the weights of {model.name} itself",
            "the same architecture, trained on permuted labels",
        )
    if twin.preprocess != model.preprocess:
        raise UsageError(
            f"{twin.name} and {model.name} see a picture differently",
            "one preprocessing for both",
            "--preprocess",
        )


def about_twin(twin: VisionModel) -> str:
    """Which network label randomization compared with, and what no file can prove of it."""
    name = twin.card.get("weights")
    of = f" with the weights {name}" if isinstance(name, str) and name else ""
    return (
        f"label randomization compares with {twin.name}{of} (fingerprint {twin.fingerprint}); it counts when that "
        "network was trained on permuted labels to the same training accuracy, which its weights do not tell"
    )


def _size(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"
