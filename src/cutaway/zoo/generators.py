"""Generators by name or file: the bundled one of scenes, and the files this package can read."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.core.errors import InputError, UsageError, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cutaway.nn.generators import Generator

_FOLDER = files("cutaway.zoo") / "weights"
_BUNDLED = ("scenes",)


def load_generator(spec: str | os.PathLike[str]) -> Generator:
    """A generator in eval mode on the CPU (float32), for `given={GENERATOR: ...}`.

    `spec` is "cutaway:scenes", the one that goes with the bundled network of that name, or a `.safetensors` file:
    one that `python -m cutaway.zoo.train_generator` wrote with its card, or the weights of a `DigitGenerator`.

    Raises `UnknownNameError` for a name that is not bundled, `InputError` for a file that cannot be read or holds
    something else.

    >>> generator = load_generator("cutaway:scenes")
    >>> generator.name, generator.code_size
    ('scenes_generator', 96)
    """
    if not isinstance(spec, str | os.PathLike):
        raise UsageError(f"{spec!r} as a generator", "'cutaway:scenes' or a .safetensors file")
    name = os.fspath(spec)
    if name.startswith("cutaway:"):
        bundled = name.removeprefix("cutaway:")
        if bundled not in _BUNDLED:
            raise unknown("bundled generator", bundled, _BUNDLED)
        place = _FOLDER / f"{bundled}_generator.safetensors"
        card = (_FOLDER / f"{bundled}_generator.json").read_text(encoding="utf-8")
        return _built(place.read_bytes(), json.loads(card), place.name)
    path = Path(name)
    try:
        content = path.read_bytes()
        beside = path.with_suffix(".json")
        about = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the generator {path}: {getattr(error, 'strerror', None) or error}",
            "a .safetensors file",
            "cutaway:scenes",
        ) from error
    return _built(content, about, path.stem)


def _built(content: bytes, card: Any, name: str) -> Generator:
    from safetensors import SafetensorError
    from safetensors.torch import load

    from cutaway.nn.generators import DigitGenerator, FeatureGenerator

    accepted = "the weights of a FeatureGenerator with its card, or of a DigitGenerator"
    try:
        weights: dict[str, Tensor] = {k: t.float() for k, t in load(content).items()}
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{name} is not a safetensors file: {error}", accepted, "cutaway:scenes") from error
    network: nn.Module
    try:
        if "embedding.weight" in weights:
            classes, size = weights["embedding.weight"].shape
            network = DigitGenerator(name, size, classes)
        else:
            shape = dict(card["architecture"])
            shape.pop("class", None)
            network = FeatureGenerator(**shape, name=card.get("name", name))
        counters = {k: t for k, t in network.state_dict().items() if k.endswith("num_batches_tracked")}
        network.load_state_dict(weights | counters)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} holds no generator this package knows ({type(error).__name__})",
            accepted,
            "cutaway:scenes",
        ) from error
    return network.eval().requires_grad_(False)
