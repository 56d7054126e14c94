"""Networks of torchvision and timm, with the preprocessing and class names they were published with."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

from cutaway.core.errors import InputError, UnknownNameError, missing, unknown
from cutaway.core.preprocess import Preprocess
from cutaway.nn.detector import SCORES, ClassScores

from .checkpoints import compare, fill
from .opened import File, Opened, Random, Weights


def open_torchvision(name: str, weights: Weights, others: tuple[str, ...]) -> Opened:
    """A torchvision classifier by name, any case.

    `others` are names that are valid elsewhere, for the nearest names in the error. With a file nothing is
    downloaded, and the published preprocessing still holds.
    """
    try:
        import torchvision.models as models
    except ImportError as error:
        raise missing("torchvision", "timm", f"the network {name!r}") from error
    choices = models.list_models(module=models)
    key = name.lower()
    if key in models.list_models(module=models.detection):
        return _open_detector(key, weights, models)
    if key not in choices:
        if key in models.list_models():
            raise UnknownNameError(
                f"torchvision's {key!r} is neither a classifier nor a detector of pictures",
                "the classifiers and detectors of torchvision.models",
                "path/net.py:build, where build() returns a module that gives scores",
            )
        raise unknown("model", name, [*others, *choices])
    best = models.get_model_weights(key).DEFAULT
    build = _torchvision_builder(models, key, weights)
    count = len(best.meta["categories"])
    classes = tuple(best.meta["categories"])
    notes: list[str] = []
    if isinstance(weights, File):
        network, found = _build_and_fill(build, weights, count)
        if found != count:
            notes.append(f"{weights.name} has {found} classes, not the {count} of ImageNet")
            classes = ()
        about = weights.name
    elif isinstance(weights, Random):
        with _seeded(weights.seed):
            network = build(count)
        about, classes = f"random, seed {weights.seed}", classes
    else:
        with _downloading(f"torchvision:{key}"):
            network = models.get_model(key, weights=best)
        about = str(best)
    preprocess = _from_torchvision(best.transforms())
    return Opened(network.eval(), key, preprocess, classes, about, notes=notes)


def _open_detector(key: str, weights: Weights, models: Any) -> Opened:
    """A torchvision detector as a network of class scores; it resizes and normalises the pictures itself."""
    best = models.get_model_weights(key).DEFAULT
    classes = tuple(best.meta["categories"])
    if weights is None:
        with _downloading(f"torchvision:{key}"):
            network = models.get_model(key, weights=best)
        about = str(best)
    else:
        with _seeded(weights.seed if isinstance(weights, Random) else 0):
            network = models.get_model(key, weights=None, weights_backbone=None, num_classes=len(classes))
        about = f"random, seed {weights.seed}" if isinstance(weights, Random) else weights.name
        if isinstance(weights, File):
            fill(network, weights.state, weights.name)
    return Opened(ClassScores(network).eval(), key, Preprocess(), classes, about, notes=[SCORES])


def _torchvision_builder(models: Any, name: str, weights: Weights) -> Callable[[int], nn.Module]:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # What torchvision does when it loads these weights itself: they expect their input shifted again.
        heads = isinstance(weights, File) and any("aux" in n.lower() for n in weights.state)
        options = {"transform_input": True, "init_weights": False, "aux_logits": heads}
    return lambda count: models.get_model(name, weights=None, num_classes=count, **options)


def _build_and_fill(build: Callable[[int], nn.Module], file: File, count: int) -> tuple[nn.Module, int]:
    """The network with the file's weights, built again where only the number of classes differs."""
    with _seeded(0):
        network = build(count)
        outputs = compare(network, file.state)[1].outputs()
        if outputs is not None:
            network, count = build(outputs), outputs
    fill(network, file.state, file.name)
    return network, count


def _from_torchvision(preset: Any) -> Preprocess:
    return Preprocess(
        resize=_whole(preset.resize_size),
        crop=_whole(preset.crop_size),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _whole(size: Any) -> int | tuple[int, int]:
    sides = [int(s) for s in size]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def open_timm(name: str, weights: Weights) -> Opened:
    """A timm network by name, with its own data configuration; needs the `timm` extra."""
    try:
        timm: Any = import_module("timm")
    except ImportError as error:
        raise missing("timm", "timm", f"the network 'timm:{name}'") from error
    architectures = timm.list_models()
    key = name if name.split(".")[0] in architectures else name.lower()
    base, _, tag = key.partition(".")
    if base not in architectures:
        raise unknown("timm model", name, architectures)
    tags = timm.list_pretrained(f"{base}.*")
    if tag and key not in tags:
        raise unknown("timm model", name, tags)
    if isinstance(weights, File):
        default = int(timm.get_pretrained_cfg(key).num_classes)
        network, _ = _build_and_fill(
            lambda count: timm.create_model(key, num_classes=count), weights, default
        )
        about = weights.name
    elif isinstance(weights, Random):
        with _seeded(weights.seed):
            network = timm.create_model(key)
        about = f"random, seed {weights.seed}"
    else:
        with _downloading(f"timm:{key}"):
            network = timm.create_model(key, pretrained=True)
        about = f"timm {network.pretrained_cfg.get('tag') or 'default'}"
    notes: list[str] = []
    preprocess = from_timm(timm.data.resolve_data_config({}, model=network), notes)
    return Opened(network.eval(), f"timm:{key}", preprocess, _timm_classes(network), about, notes=notes)


def from_timm(config: Mapping[str, Any], notes: list[str]) -> Preprocess:
    """timm's evaluation transform for a data configuration; what differs from it is added to `notes`."""
    channels, height, width = config["input_size"]
    larger = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    mode = config.get("crop_mode") or "center"
    if mode == "border" or (mode == "center" and height != width):
        notes.append(f"timm's crop mode {mode!r} for {height}x{width} is replaced by warping")
    interpolation = config["interpolation"]
    return Preprocess(
        resize=larger[0] if mode == "center" and height == width else larger,
        crop=height if height == width else (height, width),
        interpolation="bilinear" if interpolation == "random" else interpolation,
        channels="L" if channels == 1 else "RGB",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _timm_classes(network: nn.Module) -> tuple[str, ...]:
    """ImageNet names by the number of outputs; torchvision's short ones for the usual thousand."""
    data: Any = import_module("timm.data")
    subset = data.infer_imagenet_subset(network)
    if subset == "imagenet-1k":
        return imagenet_classes()
    if not subset:
        return ()
    info = data.ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))


def imagenet_classes() -> tuple[str, ...]:
    """The thousand ImageNet names as torchvision gives them."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.DEFAULT.meta["categories"])


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random initial weights from a seed, with the caller's random state put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _downloading(spec: str) -> Iterator[None]:
    """Say plainly that weights could not be fetched; the hub's talk goes to stderr."""
    try:
        with _seeded(0), contextlib.redirect_stdout(sys.stderr):
            yield
    except (OSError, RuntimeError, ValueError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InputError(
            f"the published weights of {spec} are not on this machine and could not be downloaded ({first})",
            "a machine with network access once, or a weight file",
            "--weights FILE, a bundled network such as cutaway:scenes, or weights 'random' to see an "
            "untrained one",
        ) from error
