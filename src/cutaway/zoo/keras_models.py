"""`keras:FILE.keras`: a Keras 3 model on torch, its layers under their own names."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from cutaway.core.errors import InputError, UsageError, missing

from .keras_files import ACCEPTED, check
from .keras_layers import ends_in_probabilities, takes_channels_second, torch_layer
from .keras_pixels import is_application, preprocessing
from .opened import Opened, Weights
from .published import imagenet_classes


class KerasNetwork(nn.Module):
    """A Keras graph as a torch module: pictures (N, C, H, W) in, scores out.

    The layers are its submodules, by their own names, those of a model inside the model below its name. Maps have
    channels second wherever a layer can work on them so; a layer that cannot gets and gives the file's layout.
    """

    def __init__(
        self, function: Any, layers: dict[str, nn.Module], turned: set[str] | None, inner: bool
    ) -> None:
        """`function` is a keras.Function, `layers` what runs for the operations of those names.

        `turned` are those that take channels second; None for a file that has channels second throughout.
        """
        super().__init__()
        self._function = (function,)  # in a tuple, so that it is not registered as a part
        self._turned, self._inner, self._two = turned, inner, False
        self._run = layers
        for name, layer in layers.items():
            self._modules[_allowed(name)] = layer

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, K) for the file's own input with channels second; maps of scores stay maps."""
        if self._inner:
            return self._follow(x)
        with _keras().device(str(x.device)):
            y = self._follow(x)
        return torch.cat((-y / 2, y / 2), 1) if self._two else y

    def _follow(self, x: Tensor) -> Tensor:
        layout = None if self._turned is None else _Layout()
        if layout is not None:
            layout.mark(x)
        out = self._function[0]._run_through_graph([x], lambda operation: _Step(self, operation, layout))
        found: Tensor = out[0] if isinstance(out, list | tuple) else out
        return found if layout is None else layout.turn(found, True)


class _Layout:
    """Which maps of a pass have channels second; those nobody marked have them last."""

    def __init__(self) -> None:
        self._second: Any = WeakIdKeyDictionary()

    def mark(self, value: Any) -> None:
        """Maps in a nested value have channels second."""
        for tensor in value if isinstance(value, list | tuple) else [value]:
            if isinstance(tensor, Tensor) and tensor.ndim == 4:
                self._second[tensor] = True

    def turn(self, value: Any, second: bool) -> Any:
        """A nested value with every map as wanted."""
        if isinstance(value, list | tuple):
            return type(value)(self.turn(v, second) for v in value)
        if not isinstance(value, Tensor) or value.ndim != 4 or (value in self._second) is second:
            return value
        return value.permute(0, 3, 1, 2) if second else value.permute(0, 2, 3, 1)


class _Step:
    """One operation of the graph, called with what the graph says."""

    def __init__(self, network: KerasNetwork, operation: Any, layout: _Layout | None) -> None:
        self.module, self.operation, self.layout = network._run.get(operation.name), operation, layout
        self.second = network._turned is not None and operation.name in network._turned

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.layout is not None:
            args = self.layout.turn(args, self.second)
            kwargs = {name: self.layout.turn(value, self.second) for name, value in kwargs.items()}
        if self.module is None or self.module is self.operation:
            out = self.operation(*args, **kwargs)
        else:
            out = self.module(*args)
        if self.layout is not None and self.second:
            self.layout.mark(out)
        return out


def open_keras(name: str, weights: Weights) -> Opened:
    """A .keras file by its path; needs the `keras` extra.

    Nothing in the file is run: lambdas, custom classes and wrapped pickles are refused. A softmax or sigmoid at
    the end is left out, so that scores are what it makes probabilities of. The network's numbers are compared
    with Keras's own before it is handed out.

    Raises `InputError` for a file that cannot be read or does not hold a network for pictures,
    `MissingDependencyError` without Keras, `UsageError` when Keras already runs on another backend here.
    """
    path = Path(name).expanduser()
    if weights is not None:
        raise UsageError(f"weights together with keras:{name}, which holds its own", "one of them")
    check(path)
    keras = _keras()
    model = _loaded(keras, path)
    height, width, channels, last = _size(model, path)
    x, own = _tried(model, (height, width, channels), last, path)
    ending = _ending(model)
    notes: list[str] = []
    network = _network(keras, model, scores=True, last=last)
    if ending:
        notes.append(f"the {ending} at the end of {path.name} is left out: scores are what goes into it")
    if ending == "sigmoid" and model.output_shape[-1] == 1:
        network._two = True
        notes.append("one sigmoid z is read as two classes, -z/2 and z/2: their softmax is that sigmoid")
    elif ending == "sigmoid":
        notes.append("each class had a sigmoid of its own: probabilities shown are a softmax over all")
    preprocess = preprocessing(network, model, (height, width, channels), notes)
    _compare(network, ending, x, own, path)
    classes = imagenet_classes() if is_application(model.name) and model.output_shape[-1] == 1000 else ()
    return Opened(network.eval(), f"keras:{path.name}", preprocess, classes, path.name, notes=notes)


def _keras() -> Any:
    """Keras on torch; the environment is as before afterwards."""
    if "keras" not in sys.modules:
        before = os.environ.get("KERAS_BACKEND")
        os.environ["KERAS_BACKEND"] = "torch"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import_module("keras")
        except ImportError as error:
            raise missing("keras", "keras", "a model of Keras") from error
        finally:
            del os.environ["KERAS_BACKEND"]
            if before is not None:
                os.environ["KERAS_BACKEND"] = before
    keras: Any = sys.modules["keras"]
    if keras.backend.backend() != "torch":
        raise UsageError(
            f"Keras runs on {keras.backend.backend()} in this process",
            "Keras on torch",
            "KERAS_BACKEND=torch in the environment before Keras is imported",
        )
    return keras


def _loaded(keras: Any, path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), keras.device("cpu"):
            warnings.simplefilter("ignore")
            model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever a layer's own reading of its configuration raises
        raise InputError(f"Keras cannot load {path}: {_first(error)}", ACCEPTED) from error
    for tensor in (w.value for w in model.weights):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path} holds NaN or infinity in its weights", "finite weights", "another file")
    return model


def _size(model: Any, path: Path) -> tuple[int | None, int | None, int, bool]:
    """Height and width (None: any), channels, and whether they stand last."""
    inputs, outputs = list(model.inputs or []), list(model.outputs or [])
    shape = tuple(inputs[0].shape) if inputs else ()
    if len(inputs) != 1 or len(outputs) != 1 or len(shape) != 4:
        raise InputError(
            f"{path} takes {len(inputs)} inputs of shape {shape} and gives {len(outputs)} outputs",
            "one picture in, one set of scores out",
        )
    formats = {f for layer in _every(model) if (f := getattr(layer, "data_format", None))}
    last = "channels_first" not in formats
    height, width, channels = (*shape[1:3], shape[3]) if last else (*shape[2:], shape[1])
    if channels not in (1, 3):
        raise InputError(f"{path} takes pictures of {channels} channels", "1 or 3 channels")
    return height, width, channels, last


def _every(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        yield from _every(layer) if hasattr(layer, "layers") and hasattr(layer, "inputs") else (layer,)


def _network(keras: Any, model: Any, *, scores: bool, last: bool, inner: bool = False) -> KerasNetwork:
    """The model's graph with torch layers where there are such; what stays Keras's own keeps its numbers' type."""
    function = keras.Function(model.inputs, model.outputs)
    ends = model.outputs[0]._keras_history.operation
    parts: dict[str, nn.Module] = {}
    turned: set[str] = set()
    operations: list[Any] = function.operations
    for operation in operations:
        end = scores and operation is ends
        if not isinstance(operation, keras.Layer) or isinstance(operation, keras.layers.InputLayer):
            continue  # a plain function has no name to be found by
        if isinstance(operation, keras.Model) and len(operation.inputs) == len(operation.outputs) == 1:
            parts[operation.name] = _network(keras, operation, scores=end, last=last, inner=True)
            turned.add(operation.name)
            continue
        _keep_types(operation)
        found = torch_layer(operation, scores=end, last=last)
        parts[operation.name] = found or operation
        if last and takes_channels_second(operation, found):
            turned.add(operation.name)
    return KerasNetwork(function, parts, turned if last else None, inner)


def _keep_types(layer: Any) -> None:
    """A layer and those inside it take numbers of any type as they come, in place of casting to the file's."""
    for each in layer._flatten_layers():
        each.autocast = False


def _ending(model: Any) -> str:
    """The last layer's own "softmax" or "sigmoid", also of a model at the model's end."""
    end = model.outputs[0]._keras_history.operation
    return _ending(end) if hasattr(end, "outputs") and hasattr(end, "layers") else ends_in_probabilities(end)


def _allowed(name: str) -> str:
    """A name a torch module may have: no dots, and none that a module uses itself."""
    name = name.replace(".", "_")
    return f"{name}_" if hasattr(nn.Module, name) or name == "training" else name


def _tried(
    model: Any, shape: tuple[int | None, int | None, int], last: bool, path: Path
) -> tuple[Tensor, Tensor]:
    """A picture of random numbers from 0 to 255, channels second, and what Keras itself makes of it."""
    height, width, channels = shape
    size = (1, channels, height or 224, width or 224)
    x = 255 * torch.rand(size, generator=torch.Generator().manual_seed(0)).to(_type(model))
    try:
        with torch.no_grad(), _keras().device("cpu"):
            own = model(x.permute(0, 2, 3, 1) if last else x, training=False)
    except Exception as error:  # of any of its layers
        raise InputError(
            f"{path} does not run on torch: {_first(error)}", "layers that Keras has there"
        ) from error
    own = own[0] if isinstance(own, list | tuple) else own
    return x, own.permute(0, 3, 1, 2) if own.ndim == 4 and last else own


def _type(model: Any) -> torch.dtype:
    return next((w.value.dtype for w in model.weights if w.value.is_floating_point()), torch.float32)


def _compare(network: KerasNetwork, ending: str, x: Tensor, own: Tensor, path: Path) -> None:
    """Refuse a network that does not give Keras's own numbers."""
    try:
        with torch.no_grad():
            ours = network(x)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} does not run as a torch network: {_first(error)}", "the usual layers"
        ) from error
    if ending == "softmax" or network._two:
        ours = ours.softmax(1)[:, -own.shape[1] :]
    elif ending == "sigmoid":
        ours = ours.sigmoid()
    apart = float((ours - own).abs().max() / own.abs().max().clamp(min=1e-12))
    if not apart <= 1e-3:
        raise InputError(
            f"{path} gives other numbers as a torch network than in Keras (apart by {apart:.1e} of the largest)",
            "a network of the usual layers, without layers that draw random numbers",
            "path/net.py:build, where build() returns the network as a torch module",
        )


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
