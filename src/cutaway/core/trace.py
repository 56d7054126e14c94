"""One forward pass written down as a graph of operators.

The network is not edited: a function mode sees every operator, and hooks that live exactly as long as the pass
say which module a tensor came from. No activation is kept alive. What is written down stands in `graph`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from .graph import ModuleRun, Node, Shape, Stub, Trace, Value
from .macs import multiply_accumulates
from .operators import Call, Family, owners, read, with_owner

__all__ = ["PICTURE", "UNSEEN", "ModuleRun", "Node", "Shape", "Stub", "Trace", "Value", "trace"]

PICTURE = "picture"
UNSEEN = "an operator that PyTorch functions do not show (scripted code or a custom autograd function)"
# Operators that read the shape of their argument, never its numbers.
_BLIND = {
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
}
# Ways out of PyTorch, and back: numbers that left may come back in a tensor nobody saw being made.
_LEAVES = {"numpy", "__array__", "tolist", "__dlpack__"}
_RETURNS = {"from_numpy", "from_dlpack", "tensor", "as_tensor", "asarray", "frombuffer"}


def trace(network: nn.Module, x: Tensor, *, run: Callable[[Tensor], Any] | None = None) -> Trace:
    """Run the network once on x, (N, C, H, W), in eval mode without gradients and write down what ran.

    `run` is what to call where it is not the network itself, such as a model that preprocesses first.

    Flags and hooks are as before afterwards, also after an error.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    >>> [node.name for node in trace(net, torch.zeros(1, 3, 8, 8)).nodes]
    ['picture', 'conv2d', 'relu']
    """
    network = network.module if isinstance(network, nn.DataParallel) else network
    recorder = _Recorder(network)
    training = [(module, module.training) for module in network.modules()]
    handles: list[Any] = []
    try:
        network.eval()
        for name, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(partial(recorder.enter, name)))
            handles.append(module.register_forward_hook(partial(recorder.leave, name)))
        picture = x.detach().clone()
        recorder.start(picture)
        with torch.no_grad(), recorder:
            output = (run or network)(picture)
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in training:
            module.training = flag
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if first.setdefault(id(module), name) != name:
            aliases[name] = first[id(module)]
    outputs = recorder.values(output)
    return Trace(tuple(x.shape), tuple(recorder.nodes), recorder.modules, outputs, aliases)


class _Recorder(TorchFunctionMode):
    """Writes a node for every operator that reads something computed from the picture."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.modules: dict[str, ModuleRun] = {}
        self._finished: list[str] = []
        self._scopes: list[str] = [""]
        self._left = False  # whether numbers of the picture went out to NumPy or Python
        self._owners = owners(network)
        # a tensor maps to its value, or to None when it does not depend on the picture
        self._where: Any = WeakIdKeyDictionary()
        self._storages: dict[int, list[weakref.ref[Tensor]]] = {}
        for module in network.modules():
            for tensor in _tensors(
                (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
            ):
                self._where[tensor] = None

    def start(self, picture: Tensor) -> None:
        """Begin with the picture as node 0."""
        self._write(PICTURE, None, (picture,))

    def enter(self, name: str, module: nn.Module, args: Any) -> None:
        """Pre-hook: a module begins."""
        self._scopes.append(name)

    def leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """Hook: a module returned."""
        self._scopes.pop()
        run = self.modules.setdefault(name, ModuleRun(name, type(module).__name__))
        run.runs += 1
        run.bare &= isinstance(output, Tensor)
        run.outputs.append(self.values(output))

    def values(self, output: Any) -> tuple[Value, ...]:
        """The values of the picture in a nested output."""
        found = (self._where.get(tensor) for tensor in _tensors((output,)))
        return tuple(value for value in found if value is not None)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((args, kwargs)))
        sources = {id(tensor): self._source(tensor) for tensor in given}
        name = _name(function)
        depends = name not in _BLIND and any(value is not None for value in sources.values())
        call = read(function, args, kwargs) if depends else None
        shapes = tuple(tuple(t.shape) for t in (call.inputs if call else given)) if depends else ()
        output = function(*args, **kwargs)
        if call is not None:  # dropout(inplace=True) in eval mode leaves everything as it was
            mutates = call.in_place and call.family is not Family.IDENTITY
        else:
            mutates = name == "__setitem__" or _in_place(name)
        results = [given[0]] if mutates and given else list(_tensors((output,)))
        self._left |= depends and name in _LEAVES
        if not results or (self._left and name in _RETURNS):
            return output
        if not depends:
            for tensor in results:
                if mutates or tensor not in self._where:
                    self._where[tensor] = None
            return output
        if not mutates and all(any(r is g for g in given) for r in results):
            return output  # dropout in eval mode, contiguous(), to(): the very same tensor
        if call is None:
            call = Call(None, function, tuple(given), {"args": args, **kwargs}, ())  # type: ignore[arg-type]
        self._record(name, call, sources, shapes, results, mutates)
        return output

    def _source(self, tensor: Tensor) -> Value | None:
        """Where a tensor came from; one nobody saw being made becomes a node of its own."""
        if tensor in self._where:
            return self._where[tensor]  # type: ignore[no-any-return]
        return self._write(UNSEEN, None, (tensor,))

    def _record(
        self,
        name: str,
        call: Call,
        sources: Mapping[int, Value | None],
        shapes: tuple[Shape, ...],
        results: list[Tensor],
        mutates: bool,
    ) -> None:
        call = with_owner(call, self._owners)
        used = {id(t) for t in call.inputs if isinstance(t, Tensor)}
        hidden = tuple(value for key, value in sources.items() if value is not None and key not in used)
        inputs = tuple(sources.get(id(t)) for t in call.inputs)
        value = self._write(name, call, results, inputs=inputs, shapes=shapes, hidden=hidden)
        if mutates:
            self._touch_aliases(name, call, results[0], value)

    def _touch_aliases(self, name: str, call: Call, tensor: Tensor, value: Value) -> None:
        """An operator in place also changed every other view of its memory."""
        # A function of each number alone leaves "which pixels does it see" as it was; anything else is unknown.
        family = Family.IDENTITY if call.family in (Family.RELU, Family.ACTIVATION, Family.GATE) else None
        for reference in list(self._storages.get(_memory(tensor), [])):
            other = reference()
            if other is None or other is tensor or _memory(other) != _memory(tensor):
                continue
            old = self._where.get(other)
            if old is None:
                continue
            inputs = (old,) if family else (old, value)
            through = Call(family, call.function, (), {}, ("input",))  # type: ignore[arg-type]
            shape = tuple(other.shape)
            self._write(
                f"{name} through a view", through, (other,), inputs=inputs, shapes=(shape,) * len(inputs)
            )

    def _write(
        self,
        name: str,
        call: Call | None,
        results: list[Tensor] | tuple[Tensor, ...],
        *,
        inputs: tuple[Value | None, ...] = (),
        shapes: tuple[Shape, ...] = (),
        hidden: tuple[Value, ...] = (),
    ) -> Value:
        """Append a node and bind its outputs; the value of the first."""
        index = len(self.nodes)
        outputs = tuple(tuple(t.shape) for t in results)
        arguments = {k: _stub(v) for k, v in call.arguments.items()} if call else {}
        node = Node(
            index,
            name,
            call.family if call else None,
            inputs,
            call.input_names if call else (),
            shapes,
            arguments,
            outputs,
            hidden,
            call.owner if call else None,
            self._scopes[-1],
            multiply_accumulates(name, call.family if call else None, shapes, arguments, outputs),
            call.function if call else None,
        )
        self.nodes.append(node)
        for number, tensor in enumerate(results):
            self._where[tensor] = Value(index, number)
            if memory := _memory(tensor):
                self._storages.setdefault(memory, []).append(weakref.ref(tensor))
        return Value(index)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)


def _stub(value: Any) -> Any:
    """The value with every tensor replaced by its shape."""
    if isinstance(value, Tensor):
        return Stub(tuple(value.shape))
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return tuple(_stub(item) for item in value)
    return tuple(value) if isinstance(value, torch.Size) else value


def _name(function: Any) -> str:
    """The spelling of an operator; a property is called by its own name."""
    name = getattr(function, "__name__", str(function))
    return str(getattr(function.__self__, "__name__", name)) if name == "__get__" else str(name)


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _memory(tensor: Tensor) -> int:
    """The address of the memory behind a tensor and its views; 0 where there is none (the meta device)."""
    return tensor.untyped_storage().data_ptr()
