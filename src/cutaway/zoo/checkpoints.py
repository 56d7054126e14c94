"""Weight files: read without running code, checked whole before a single tensor is changed."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.core.errors import InputError

_ACCEPTED = "a .safetensors file, or a state dict saved with torch.save(network.state_dict(), file)"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
# torchvision's own DenseNet files carry names from before 2018.
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.\w+)$")


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Read a weight file into a network, whole or not at all.

    Numbers are cast to the network's own types. Raises `InputError` for a file that cannot be read, wants to
    run code, holds NaN or infinity, or does not fit; the network is then as it was.
    """
    fill(network, read_state(path), Path(path).name)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU; never runs code from the file."""
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", _ACCEPTED) from error
    if not head:
        raise InputError(f"{path} is empty (0 bytes)", _ACCEPTED)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _named(_unpickled(path), path)
    if head[8:9] == b"{":
        return _safe(path)
    raise InputError(f"{path} is no weight file (it starts with {head[:8]!r})", _ACCEPTED)


def _safe(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is damaged or incomplete: {error}", "a whole .safetensors file", "download it again"
        ) from error
    return state


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol; what matters becomes an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL[: ]+([\w.]+)", str(error))
        if wanted is None and "unsupported" not in str(error).lower():
            raise _damaged(path, error) from error
        raise InputError(
            f"{path} wants to run code while it is read"
            + (f" ({wanted.group(1)})" if wanted else "")
            + "; a pickle can do anything to this machine, so it was not read",
            _ACCEPTED,
            "where you trust the file, once: safetensors.torch.save_file(torch.load(file, weights_only=False)"
            '.state_dict(), "weights.safetensors"); a saved dict of tensors needs no .state_dict()',
        ) from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise InputError(
                f"{path} is a TorchScript program, not weights",
                _ACCEPTED,
                "torch.save(torch.jit.load(file).state_dict(), other_file)",
            ) from error
        raise _damaged(path, error) from error
    except (EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    first = (str(error) or type(error).__name__).splitlines()[0][:160]
    return InputError(f"{path} is damaged, incomplete or no weight file: {first}", _ACCEPTED, "copy it again")


def _named(values: Any, path: Path) -> dict[str, Tensor]:
    """The dict of tensors inside whatever a training script saved around it."""
    while isinstance(values, Mapping):
        inner = next((values[k] for k in _WRAPPERS if isinstance(values.get(k), Mapping)), None)
        if inner is None:
            break
        values = inner
    found = f"a {type(values).__name__}"
    if isinstance(values, Mapping):
        other = [str(key) for key, value in values.items() if not isinstance(value, Tensor)]
        if values and not other:
            return {str(key): value for key, value in values.items()}
        found = f"entries that are no tensors ({', '.join(other[:4])})" if other else "nothing"
    raise InputError(f"{path} holds {found}", _ACCEPTED)


@dataclass(frozen=True)
class Misfit:
    """What keeps a file from fitting a network."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        parts = []
        for names, words in ((self.missing, "missing"), (self.unexpected, "unexpected")):
            if names:
                parts.append(f"{len(names)} tensors {words} ({_few(names)})")
        if self.shapes:
            lines = tuple(f"{n}: file {_times(a)}, network {_times(b)}" for n, a, b in self.shapes)
            parts.append(f"{len(lines)} of another shape ({_few(lines, '; ')})")
        return ", ".join(parts)

    def outputs(self) -> int | None:
        """The number of classes of the file, where only that sets file and network apart."""
        if self.missing or self.unexpected or not self.shapes:
            return None
        same = all(a[1:] == b[1:] and b[0] == self.shapes[0][2][0] for _, a, b in self.shapes if a and b)
        counts = {a[0] for _, a, b in self.shapes if a and b}
        return counts.pop() if same and len(counts) == 1 else None


def compare(network: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Misfit]:
    """The file's tensors under the network's names, and what does not fit.

    Counters of batch normalisation (`num_batches_tracked`) may be absent: evaluation does not use them.
    """
    own = network.state_dict()
    named = _renamed(state, own)
    missing = [n for n in own if n not in named and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in named if n not in own and not n.endswith("num_batches_tracked")]
    shapes = [
        (n, tuple(t.shape), tuple(own[n].shape))
        for n, t in named.items()
        if n in own and t.shape != own[n].shape
    ]
    kept = {n: t for n, t in named.items() if n in own}
    return kept, Misfit(tuple(missing), tuple(unexpected), tuple(shapes))


def fill(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put a state into a network after every check has passed; `source` is the file's name for errors."""
    named, misfit = compare(network, state)
    kind = type(network).__name__
    if misfit:
        outputs = misfit.outputs()
        hint = f"a network with {outputs} outputs" if outputs else "the file that belongs to this network"
        raise InputError(f"{source} does not fit {kind}: {misfit}", "the same names and shapes", hint)
    own = network.state_dict()
    cast = {}
    for name, tensor in named.items():
        value = tensor.to(own[name].dtype)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise InputError(
                f"{source} holds NaN or infinity, first in {name!r} ({bad} of {value.numel()} values)",
                f"finite numbers that fit {own[name].dtype}",
                "a checkpoint from before the training diverged",
            )
        cast[name] = value
    # Updated, not built anew: it carries the versions of the modules, which .safetensors files do not keep and
    # without which MNASNet refuses.
    own.update(cast)
    network.load_state_dict(own)


def _renamed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = dict(state)
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if named and all(n.startswith(prefix) for n in named) and not all(n in own for n in named):
                named = {n.removeprefix(prefix): t for n, t in named.items()}
    return {n if n in own else _DENSENET.sub(r"\1\2", n): t for n, t in named.items()}


def _few(names: tuple[str, ...], separator: str = ", ") -> str:
    return separator.join(names[:4]) + (f"{separator}and {len(names) - 4} more" if len(names) > 4 else "")


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape) or "a single number"
