"""Read, edit or stop at named layers; hooks live exactly as long as the with-block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .errors import UsageError
from .layers import as_map
from .operators import Family, read

if TYPE_CHECKING:
    from .model import VisionModel


class StopForward(BaseException):
    """Ends a forward pass early; never leaves the `Tap` that raised it."""


class Tap(AbstractContextManager["Tap"]):
    """The activations of named layers while the block runs.

    A layer's activation is its output after the nonlinearity that directly follows it (through eval-mode batch
    norm), so a convolution, its ReLU module and a functional ReLU after it all read alike; `raw=True` gives the
    module's own output. What is read is never changed by an in-place operator that comes later.

    Parameters
    ----------
    model : the model whose layers are read.
    layers : names of layers.
    edit : called with (layer name, activation), returns what the network goes on with.
    stop : end the forward pass once every layer was read.
    leaf : cut the graph at the layers, so that gradients are taken from the output down to them only.
    raw : read module outputs as they are.
    look : called with (layer name, activation) instead of keeping it: nothing is copied, so whoever looks must be
        done with it on return and leave it as it is.

    Raises `UnknownNameError` for a layer that does not exist, with the nearest names.
    """

    def __init__(
        self,
        model: VisionModel,
        *layers: str,
        edit: Callable[[str, Tensor], Tensor] | None = None,
        stop: bool = False,
        leaf: bool = False,
        raw: bool = False,
        look: Callable[[str, Tensor], None] | None = None,
    ) -> None:
        self._rows = {name: model.layers.find(name) for name in layers}
        self._modules = {name: model.network.get_submodule(name) for name in layers}
        self._edit, self._stop, self._leaf, self._raw, self._look = edit, stop, leaf, raw, look
        self.calls: dict[str, list[Tensor]] = {name: [] for name in layers}
        self._followed: list[tuple[str, Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Tap:
        with ExitStack() as stack:
            for name, module in self._modules.items():
                stack.callback(module.register_forward_hook(self._hook(name)).remove)
            if not self._raw and any(row.activation for row in self._rows.values()):
                stack.enter_context(_Follow(self))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._stack.__exit__(None, None, None)
        self._followed.clear()
        return kind is not None and issubclass(kind, StopForward) and self._stop

    def __getitem__(self, name: str) -> Tensor:
        calls = self.calls[name]
        if len(calls) != 1:
            raise UsageError(
                f"layer {name!r} ran {len(calls)} times in one forward pass",
                "a layer that runs once",
                "its parent block",
            )
        return calls[0]

    def maps(self, name: str) -> Tensor:
        """The activation with channels second: maps (N, C, h, w), token grids and channels-last included."""
        maps: Tensor = as_map(self[name], self._rows[name])
        return maps

    def _hook(self, name: str) -> Callable[[Any, Any, Any], Any]:
        def hook(module: Any, args: Any, output: Any) -> Any:
            if not isinstance(output, Tensor):
                raise UsageError(
                    f"layer {name!r} gives a {type(output).__name__}", "a layer that gives one tensor", ""
                )
            if self._rows[name].activation and not self._raw:
                self._followed.append((name, output))
                return output
            return self._take(name, output, in_place=False)

        return hook

    def _take(self, name: str, value: Tensor, *, in_place: bool) -> Tensor:
        if self._look is not None:
            with torch._C.DisableTorchFunction():
                self._look(name, as_map(value, self._rows[name]))
            return value
        edited = value if self._edit is None else self._edit(name, value)
        with torch._C.DisableTorchFunction():  # reading is no part of the computation that modes watch
            # copies on both sides: nothing in place downstream may change what was read
            kept = edited.clone() if in_place else edited
            kept = kept.detach().requires_grad_() if self._leaf else kept
            self.calls[name].append(kept)
            if self._stop and all(self.calls.values()):
                raise StopForward
            if not in_place:
                return kept.clone()
            if (
                kept.shape != value.shape
            ):  # one picture edited into several: only what is returned can hold them
                return kept.clone()
            # the network may go on with the tensor it changed, not with what the operator returned
            return value.copy_(kept) if self._leaf or edited is not value else value

    def _see(self, function: Any, args: Any, kwargs: Any, result: Any) -> Any:
        call = read(function, args, kwargs)
        if call is None or not call.inputs:
            return result
        here = [(name, tensor) for name, tensor in self._followed if tensor is call.inputs[0]]
        if not here:
            return result
        if call.family in (Family.RELU, Family.ACTIVATION):
            self._followed = [(name, t) for name, t in self._followed if t is not call.inputs[0]]
            for name, _ in here:
                result = self._take(name, result, in_place=call.in_place)
        elif call.family in (Family.BATCH_NORM, Family.IDENTITY):
            self._followed = [(name, result if t is call.inputs[0] else t) for name, t in self._followed]
        return result


class _Follow(TorchFunctionMode):
    """Watches for the nonlinearity that directly follows a layer."""

    def __init__(self, tap: Tap) -> None:
        super().__init__()
        self._tap = tap

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        return self._tap._see(func, args, kwargs, result) if self._tap._followed else result
