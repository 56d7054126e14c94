"""The networks that come with the package: weights and a card beside each, no download ever."""

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from cutaway.core.errors import unknown

if TYPE_CHECKING:
    from torch import nn

_FOLDER = files("cutaway.zoo") / "weights"
_NAMES = ("scenes", "cifar", "fish_in_snow", "fish_anywhere")


def names() -> tuple[str, ...]:
    """Names of the bundled networks.

    >>> names()
    ('scenes', 'cifar', 'fish_in_snow', 'fish_anywhere')
    """
    return _NAMES


def card(name: str) -> dict[str, Any]:
    """What is known about a bundled network.

    Keys: ``name``, ``title``, ``architecture``, ``classes``, ``input_size`` (pixels), ``preprocess`` (the
    keys of ``--preprocess``), ``parameters``, ``multiply_adds`` (per picture), ``scores``, ``training``,
    ``licence``. Raises UnknownNameError for a name that is not bundled.

    >>> card("scenes")["classes"][:3]
    ['house', 'boat', 'car']
    """
    if name not in _NAMES:
        raise unknown("bundled network", name, _NAMES)
    found: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def build(name: str) -> tuple["nn.Module", dict[str, Any]]:
    """A bundled network in eval mode on the CPU (float32), and its card.

    It takes normalised batches ``(N, 3, size, size)`` and returns logits; the card's ``preprocess`` says
    how a picture becomes such a batch. Raises UnknownNameError for a name that is not bundled.

    >>> network, about = build("scenes")
    >>> network.training, network.head.out_features == len(about["classes"])
    (False, True)
    """
    from safetensors.torch import load

    from cutaway.zoo.networks import SmallNet

    about = card(name)
    shape = about["architecture"]
    network = SmallNet(
        len(about["classes"]),
        widths=shape["widths"],
        stem_kernel=shape["stem_kernel"],
        stem_stride=shape["stem_stride"],
    )
    weights = load((_FOLDER / f"{name}.safetensors").read_bytes())
    state = network.state_dict()
    counters = {key for key in state if key.endswith("num_batches_tracked")}
    full = {key: value.float() for key, value in weights.items()} | {key: state[key] for key in counters}
    network.load_state_dict(full)
    return network.eval(), about
