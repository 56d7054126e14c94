"""`load`: every kind of model spec becomes a `VisionModel`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutaway.core.errors import InputError, UnknownNameError, UsageError, unknown
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.nn.detector import SCORES, ClassScores, is_detector

from .categories import read_classes
from .checkpoints import fill, read_state
from .hugging_face import open_hugging_face
from .keras_models import open_keras
from .opened import File, Opened, Random, Weights
from .published import open_timm, open_torchvision
from .user_code import build_from_file

_KINDS = (
    "a torchvision name (resnet50), timm:NAME, hf:NAME or hf:FOLDER, keras:FILE.keras, "
    "path/net.py:FUNCTION, cutaway:NAME (bundled), or in Python a torch.nn.Module"
)
_IDENTITY_NOTE = "no preprocessing was given: pixels from 0 to 1 reach the network as they are"


def load(
    spec: str | os.PathLike[str] | nn.Module | VisionModel,
    *,
    weights: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | Sequence[str] | None = None,
    preprocess: str | os.PathLike[str] | Mapping[str, Any] | Preprocess | None = None,
    device: str | torch.device = "auto",
) -> VisionModel:
    """Open a network with its preprocessing and class names.

    Parameters
    ----------
    spec : "resnet50" (torchvision, its default weights, transforms and categories), "timm:convnext_tiny",
        "hf:microsoft/resnet-18" or "hf:folder" (Hugging Face, safetensors only), "keras:file.keras" (Keras 3,
        run on torch), "path/net.py:build" (your own code), "cutaway:scenes" (bundled, works offline), an
        `nn.Module` (wrapped as it is, on its device), or a `VisionModel` (returned as it is).
    weights : a .safetensors file or a state dict read without running code; "random" (or "random:SEED") for
        an untrained network on purpose. None takes the published weights; they are never silently random.
    classes : names in the order of the outputs, or a file with them (JSON, or one a line).
    preprocess : a `Preprocess`, its keys as a dict, or a JSON file with them. A module without any gets the
        pixels as they are (grey where its first convolution takes one channel), and the model's card says so.
    device : "auto" takes CUDA, else MPS, else the CPU.

    Raises `UnknownNameError` for a name that does not exist, `InputError` for files that cannot be read or do
    not fit, `MissingDependencyError` for timm, transformers or Keras when it is not installed, `UsageError` for
    options that exclude each other.

    >>> model = load(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), classes=["no", "yes"])
    >>> model.name, model.classes
    ('Sequential', ('no', 'yes'))
    >>> model.card["notes"]
    ('no preprocessing was given: pixels from 0 to 1 reach the network as they are',)
    """
    steps = _preprocess(preprocess)
    names = None if classes is None else read_classes(classes)
    if isinstance(spec, VisionModel):
        _stays(spec.network, weights, device)
        if steps is None and names is None:
            return spec
        return VisionModel(
            spec.network,
            steps or spec.preprocess,
            spec.classes if names is None else names,
            name=spec.name,
            card=spec.card,
        )
    if isinstance(spec, nn.Module):
        _stays(spec, weights, device)
        network = _unwrapped(spec)
        return _model(_wrapped(network, type(network).__name__), steps, names)
    if not isinstance(spec, str | os.PathLike):
        raise UsageError(f"a {type(spec).__name__} is no model", _KINDS)
    place = _device(device)
    opened = _open(os.fspath(spec), _weights(weights))
    opened.network.to(place)
    return _model(opened, steps, names)


def _open(spec: str, weights: Weights) -> Opened:
    """Whatever a written spec names."""
    from . import bundled

    own = re.fullmatch(r"(.+\.py)(?::(\w*))?", spec, re.IGNORECASE)
    if own:
        return _open_file(own[1], own[2] or "", spec, weights)
    kind, colon, name = spec.partition(":")
    if colon and kind.lower() == "timm":
        return open_timm(name, weights)
    if colon and kind.lower() == "cutaway":
        if name.lower() not in bundled.names():
            raise unknown("bundled network", name, bundled.names())
        return _open_bundled(name.lower(), weights)
    if colon and kind.lower() == "keras":
        return open_keras(name, weights)
    if colon and kind.lower() == "hf":
        return open_hugging_face(name, weights)
    if colon:
        raise UnknownNameError(f"no kind of model named {kind!r} in {spec!r}", _KINDS)
    if re.search(r"\.(pth?|safetensors|ckpt|bin|onnx|h5|keras|pb|tflite)$", spec, re.IGNORECASE):
        raise UnknownNameError(
            f"{spec} is a file of weights, which does not say what network it belongs to",
            _KINDS,
            f"the network's name, with --weights {spec}",
        )
    if spec.lower() in bundled.names():
        return _open_bundled(spec.lower(), weights)
    return open_torchvision(spec, weights, tuple(bundled.names()))


def _open_bundled(name: str, weights: Weights) -> Opened:
    from . import bundled

    network, card = bundled.build(name)
    about = "bundled"
    if isinstance(weights, File):
        fill(network, weights.state, weights.name)
        about = weights.name
    elif isinstance(weights, Random):
        about = _randomised(network, weights)
    preprocess = Preprocess.from_dict(card["preprocess"])
    return Opened(network, f"cutaway:{name}", preprocess, tuple(card["classes"]), about, card)


def _open_file(file: str, function: str, spec: str, weights: Weights) -> Opened:
    built = build_from_file(file, function)
    if isinstance(built, VisionModel):
        opened = Opened(built.network, built.name, built.preprocess, built.classes, card=built.card)
    else:
        opened = _wrapped(_unwrapped(built), spec)
    if isinstance(weights, File):
        fill(opened.network, weights.state, weights.name)
        opened.weights = weights.name
    elif isinstance(weights, Random):
        opened.weights = _randomised(opened.network, weights)
    return opened


def _wrapped(network: nn.Module, name: str) -> Opened:
    """A module of the person's own; a detector by its class scores."""
    if not is_detector(network):
        return Opened(network, name)
    return Opened(ClassScores(network), name, Preprocess(), notes=[SCORES])


def _randomised(network: nn.Module, weights: Random) -> str:
    """Draw every layer's weights again by its own `reset_parameters`; layers without it are refused."""
    layers = [m for m in network.modules() if next(m.parameters(recurse=False), None) is not None]
    fixed = [type(m).__name__ for m in layers if not hasattr(m, "reset_parameters")]
    if fixed:
        raise UsageError(
            f"{fixed[0]} has parameters but no reset_parameters(), so its weights cannot be drawn again",
            "layers of torch.nn",
            "a build function that leaves the network untrained",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed)
        for layer in layers:
            layer.reset_parameters()  # type: ignore[operator]
    return f"random, seed {weights.seed}"


def _model(opened: Opened, preprocess: Preprocess | None, classes: tuple[str, ...] | None) -> VisionModel:
    notes = [*opened.notes]
    steps = preprocess or opened.preprocess
    if steps is None:
        steps = Preprocess(channels="L" if _is_grey(opened.network) else "RGB")
        notes.append(_IDENTITY_NOTE)
    card = {**opened.card, "weights": opened.weights, "notes": (*opened.card.get("notes", ()), *notes)}
    names = opened.classes if classes is None else classes
    return VisionModel(opened.network, steps, names, name=opened.name, card=card)


def _is_grey(network: nn.Module) -> bool:
    """Whether the first convolution takes one channel."""
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    return first is not None and first.in_channels == 1


def _stays(network: nn.Module, weights: object, device: str | torch.device) -> None:
    """A module that was handed over is wrapped, never edited or moved."""
    if weights is not None:
        raise UsageError(
            "weights= together with a module, which is never edited",
            "weights= with a named model or path/net.py:build",
            "cutaway.zoo.checkpoints.load_weights(module, file) first",
        )
    here = next((t.device for t in [*network.parameters(), *network.buffers()]), torch.device("cpu"))
    if device != "auto" and _device(device).type != here.type:
        raise UsageError(
            f"device={str(device)!r} for a module on {here}", "its own device", "module.to(device)"
        )


def _unwrapped(network: nn.Module) -> nn.Module:
    while isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        network = network.module
    return network


def _weights(weights: str | os.PathLike[str] | None) -> Weights:
    if weights is None:
        return None
    drawn = re.fullmatch(r"random(?::(\d{1,9}))?", weights) if isinstance(weights, str) else None
    if drawn:
        return Random(int(drawn[1] or 0))
    return File(Path(weights).name, read_state(weights))


def _preprocess(given: str | os.PathLike[str] | Mapping[str, Any] | Preprocess | None) -> Preprocess | None:
    if given is None or isinstance(given, Preprocess):
        return given
    if isinstance(given, Mapping):
        return Preprocess.from_dict(given)
    if isinstance(given, str | os.PathLike):
        return Preprocess.from_json(given)
    raise InputError(f"preprocessing given as {type(given).__name__}", "a JSON file, a dict or a Preprocess")


def _device(device: str | torch.device) -> torch.device:
    accepted = "auto, cpu, cuda, cuda:0, mps"
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device={device!r}", accepted) from error
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if (place.index or 0) >= present.get(place.type, 0):
        raise UsageError(f"device={str(device)!r} is not on this machine", accepted, "device='auto'")
    return place
