"""`hf:NAME` and `hf:FOLDER`: picture classifiers of Hugging Face, from safetensors, by no code of theirs."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from cutaway.core.errors import CutawayError, InputError, UnknownNameError, missing
from cutaway.core.image import read
from cutaway.core.preprocess import Preprocess

from .checkpoints import fill
from .opened import File, Opened, Random, Weights

_ACCEPTED = "a picture classifier of huggingface.co, or a folder that save_pretrained() wrote"
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_PATIENCE = 5.0  # seconds for an answer from the hub


def open_hugging_face(name: str, weights: Weights) -> Opened:
    """A picture classifier by its name on the hub or by its folder; needs the `hf` extra.

    Weights are read from safetensors alone and no code that comes with them is run. With a file or random
    weights only the configuration and the preprocessing are fetched.

    Raises `UnknownNameError` for a name that is nowhere, `InputError` for one that cannot be fetched or is no
    picture classifier, `MissingDependencyError` without transformers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transformers: Any = import_module("transformers")
    except ImportError as error:
        raise missing("transformers", "hf", f"the network 'hf:{name}'") from error
    folder = Path(name).expanduser()
    local = bool(name) and folder.is_dir()
    source = str(folder) if local else name
    if not local and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UnknownNameError(
            f"there is no folder {name or 'without a name'}, and no name of the hub looks like it", _ACCEPTED
        )
    with _quiet(transformers):
        here = _only_here(transformers, source, local=local)
        options = {"local_files_only": here, "trust_remote_code": False}
        with _explained(source):
            config = transformers.AutoConfig.from_pretrained(source, **options)
        if type(config) not in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            raise InputError(
                f"hf:{name} is a {config.model_type}, which has no form that classifies pictures",
                "a model of the task image-classification",
            )
        network, about = _network(transformers, source, config, weights, options)
        notes: list[str] = []
        preprocess = _preprocess(transformers, source, options, notes)
    return Opened(network.eval(), f"hf:{name}", preprocess, _classes(config), about, notes=notes)


def _only_here(transformers: Any, source: str, *, local: bool) -> bool:
    """Whether to read from this machine alone: a folder, something fetched before, or no way out.

    The library would try an unreachable hub for half a minute; one question says it sooner.
    """
    if local:
        return True
    hub: Any = import_module("huggingface_hub")
    if isinstance(hub.try_to_load_from_cache(source, "config.json"), str):
        return True
    try:
        hub.model_info(source, timeout=_PATIENCE)
    except (hub.errors.RepositoryNotFoundError, hub.errors.HFValidationError) as error:
        raise UnknownNameError(
            f"huggingface.co shows no model named {source!r}",
            _ACCEPTED,
            "check the name; private ones need a login",
        ) from error
    except Exception as error:  # of whichever library carries the request
        raise InputError(
            f"hf:{source} is not on this machine and huggingface.co cannot be reached ({_first(error)})",
            "a machine with network access once, or a folder",
            "hf:FOLDER, or a bundled network such as cutaway:scenes",
        ) from error
    return False


def _network(
    transformers: Any, source: str, config: Any, weights: Weights, options: Mapping[str, Any]
) -> tuple[nn.Module, str]:
    auto = transformers.AutoModelForImageClassification
    if weights is not None:
        seed = weights.seed if isinstance(weights, Random) else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: nn.Module = auto.from_config(config)
        if isinstance(weights, File):
            fill(network, weights.state, weights.name)
            return network, weights.name
        return network, f"random, seed {seed}"
    with _explained(source), torch.random.fork_rng(devices=[]):
        network, found = auto.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **options
        )
    absent = sorted(found["missing_keys"])
    if absent:
        few = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
        raise InputError(
            f"hf:{source} holds no weights for {few}: they would be random",
            "a network that was trained to classify",
            "--weights FILE, or weights 'random' to see an untrained one",
        )
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"hf:{source} holds NaN or infinity, first in {name!r}", "finite weights")
    return network, source


def _classes(config: Any) -> tuple[str, ...]:
    """The names of the classes, where they are more than LABEL_0, LABEL_1."""
    names = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _preprocess(
    transformers: Any, source: str, options: Mapping[str, Any], notes: list[str]
) -> Preprocess | None:
    """The published preprocessing, tried on a picture against the library's own; `notes` says what differs.

    One that is absent is noted; a damaged file is refused.
    """
    file = Path(source) / "preprocessor_config.json"
    try:
        if file.is_file():
            json.loads(file.read_bytes())
    except ValueError as error:
        raise InputError(
            f"{file} is damaged: {_first(error)}",
            "a preprocessing in JSON",
            "another copy; or remove it and give --preprocess FILE",
        ) from error
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(source, backend="pil", **options)
    except (OSError, ValueError, ImportError, KeyError) as error:
        notes.append(f"its preprocessing cannot be read ({_first(error)})")
        return None
    values = json.loads(processor.to_json_string())
    try:
        preprocess = from_hugging_face(values)
    except CutawayError as error:
        notes.append(f"its preprocessing is not followed: {error}")
        return None
    apart = _apart(processor, preprocess)
    if not apart <= 0.05:
        kind = type(processor).__name__
        notes.append(f"the preprocessing is that of {kind} but for {apart:.2g} of its spread at most")
    return preprocess


def from_hugging_face(values: Mapping[str, Any]) -> Preprocess:
    """The steps in the values of a preprocessor_config.json.

    Raises `InputError` for sizes that are given in another way than these: height and width, the shortest edge.

    >>> steps = from_hugging_face({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3})
    >>> steps.resize, steps.crop, steps.interpolation
    (256, 224, 'bicubic')
    """
    steps: dict[str, Any] = {}
    if values.get("do_resize", True) and values.get("size"):
        steps |= _sizes(values)
        steps["interpolation"] = _FILTERS[int(values.get("resample", 2))]
    if values.get("do_center_crop") and values.get("crop_size"):
        steps["crop"] = _pair(values["crop_size"])
    factor = float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0
    mean, std = 0.0, 1.0
    if values.get("do_normalize", True) and values.get("image_mean") is not None:
        mean, std = values["image_mean"], values["image_std"]
    # (v * factor - mean) / std for v from 0 to 255, in terms of pixels from 0 to 1
    white = 255 * factor
    steps["mean"], steps["std"] = (_over(numbers, white) for numbers in (mean, std))
    if values.get("do_flip_channel_order"):
        steps["channels"] = "BGR"
    return Preprocess(**steps)


def _sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    size = values["size"]
    edge = size if isinstance(size, int) else size.get("shortest_edge")
    if edge is None or isinstance(size, int):
        if isinstance(size, int) or {"height", "width"} <= set(size):
            return {"resize": (edge, edge) if isinstance(size, int) else _pair(size)}
        raise InputError(f"size {size}", "height and width, or shortest_edge", "--preprocess FILE")
    if values.get("crop_pct") is None:
        return {"resize": int(edge)}
    if edge < 384:  # as ConvNeXt's processor has it
        return {"resize": int(edge / values["crop_pct"]), "crop": int(edge)}
    return {"resize": (int(edge), int(edge))}


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if "height" not in size:
        raise InputError(f"size {size}", "height and width, or shortest_edge", "--preprocess FILE")
    return int(size["height"]), int(size["width"])


def _over(numbers: Any, white: float) -> tuple[float, ...]:
    return tuple(float(n) / white for n in (numbers if isinstance(numbers, list | tuple) else [numbers]))


def _apart(processor: Any, preprocess: Preprocess) -> float:
    """The largest difference from the library's own input, in units of its spread."""
    y, x = np.mgrid[0:300, 0:400] / 50
    waves = [np.sin(x + y), np.cos(x - 2 * y), np.sin(x * y / 4)]
    picture = Image.fromarray(np.uint8(127.5 + 127 * np.stack(waves, -1)))
    try:
        theirs = processor(picture, return_tensors="pt")["pixel_values"]
        ours = preprocess.normalise(preprocess.fit(read(picture)))
    except (CutawayError, ValueError, TypeError, KeyError, RuntimeError):
        return float("inf")
    if theirs.shape != ours.shape:
        return float("inf")
    return float((theirs - ours).abs().max() / theirs.std())


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No bars and no advice while the library works; its settings are as before afterwards."""
    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    try:
        logs.set_verbosity_error()
        logs.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    """The library's errors as one about the model."""
    try:
        yield
    except CutawayError:
        raise
    except Exception as error:  # OSError, ValueError, RuntimeError and those of the hub and of safetensors
        if "trust_remote_code" in str(error):
            raise InputError(
                f"hf:{source} comes with code of its own, which is not run",
                "architectures that transformers has itself",
                "path/net.py:build, where you trust that code",
            ) from error
        if "ignore_mismatched_sizes" in str(error):
            raise InputError(
                f"hf:{source} holds weights of other shapes than its config.json describes",
                "a config.json with the sizes and the number of labels of the weights",
            ) from error
        raise InputError(
            f"hf:{source} cannot be read: {_first(error)}", f"{_ACCEPTED}, with weights in safetensors"
        ) from error


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
