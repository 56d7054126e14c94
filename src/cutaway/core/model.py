"""VisionModel: a network with its preprocessing, class names and layer table; it wraps and never edits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CutawayError, InputError, MethodRefusedError, UsageError
from .image import Photo, read
from .layers import LayerTable
from .preprocess import Preprocess, SamePadding
from .result import Result

_ONE_AT_A_TIME = RLock()
"""Flags, hooks and torch's random numbers are the whole process's, whichever thread sets them."""


@dataclass(frozen=True)
class Prediction:
    """One class with its probability."""

    index: int
    name: str
    probability: float


class VisionModel:
    """A network as people use it: from pixels in [0, 1] to class scores.

    Parameters
    ----------
    network : the user's module; flags, parameters, hooks and gradients are left as they were found.
    preprocess : how a picture becomes the network's input.
    classes : names of the classes, in the order of the outputs; may be empty.
    name : how results call the model.
    card : anything known about it (scores, data, notes).

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> model = VisionModel(net, Preprocess(), ["no", "yes"], name="tiny")
    >>> model(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess,
        classes: Sequence[str] = (),
        *,
        name: str,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            network = network.module  # function modes are per thread; replicas would not see them
        network = getattr(
            network, "_orig_mod", network
        )  # compiled code hides its operators; the module does not
        self.network, self.preprocess, self.classes, self.name = network, preprocess, tuple(classes), name
        self.card: Mapping[str, Any] = dict(card or {})
        self._print: tuple[tuple[Any, ...], str] | None = None
        self._tables: dict[tuple[int, ...], LayerTable] = {}
        self._size: tuple[int, int] | None = None

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.network.parameters())
        return f"<VisionModel {self.name}: {count / 1e6:.3g} M parameters, {len(self.classes) or 'unnamed'} classes>"

    @property
    def device(self) -> torch.device:
        """Where the network's first parameter lives."""
        return next((t.device for t in self._tensors()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The network's floating-point type."""
        return next((t.dtype for t in self._tensors() if t.is_floating_point()), torch.float32)

    @property
    def random_devices(self) -> list[int]:
        """Devices with random numbers of their own, as `torch.random.fork_rng` wants them."""
        return [self.device.index or 0] if self.device.type == "cuda" else []

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.network.parameters()
        yield from self.network.buffers()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Class scores (N, K) for pixels (N, 3, H, W) in [0, 1]; differentiable, no flags touched.

        Raises `InputError` when the picture is too small for the network or its output is no tensor.
        """
        x = self.preprocess.normalise(pixels)
        try:
            if self.preprocess.padding == "tensorflow_same":
                with SamePadding():
                    out = self.network(x)
            else:
                out = self.network(x)
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
            raise self._explained(error, x) from error
        out = _scores(out)
        if self.classes and out.ndim >= 2 and out.shape[1] != len(self.classes):
            raise InputError(
                f"{len(self.classes)} class names for a network with {out.shape[1]} outputs",
                f"{out.shape[1]} names",
                "another --classes file",
            )
        return out

    def pixels(self, image: Any) -> Tensor:
        """Any accepted picture as the (N, 3, H, W) pixels in [0, 1] that the network sees."""
        photo = image if isinstance(image, Photo) else read(image)
        pixels = self.preprocess.fit(photo).to(self.device, self.dtype)
        self._size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        return pixels

    def predict(self, image: Any, k: int = 5) -> list[Prediction]:
        """The k most probable classes of a picture, best first.

        Raises `InputError` for a picture that cannot be read.
        """
        x = self.pixels(image)
        with self.guard(), torch.no_grad():
            scores = self(x)
            self.check_finite(scores, x)
        if scores.ndim != 2:
            raise UsageError(
                f"the network gives {scores.ndim}-D output", "one score per class", "a Target of your own"
            )
        top = scores[0].softmax(0).topk(min(k, scores.shape[1]))
        return [Prediction(int(i), self.class_name(int(i)), float(p)) for p, i in zip(*top, strict=True)]

    def class_name(self, index: int) -> str:
        """The class's name, or its number as text when names are unknown."""
        return self.classes[index] if index < len(self.classes) else str(index)

    @property
    def layers(self) -> LayerTable:
        """The layer table at the size of the last picture, or at the preprocessing's size."""
        height, width = self._size or self.preprocess.size or (224, 224)
        if (height, width) not in self._tables:
            shape = (1, self.preprocess.pixel_channels, height, width)
            noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
            x = noise.to(self.device, self.dtype)
            with self.guard(), torch.no_grad(), torch.random.fork_rng(devices=self.random_devices):
                self._tables[height, width] = LayerTable.build(self, x)
        return self._tables[height, width]

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Evaluation mode and frozen parameters, all put back on every way out; one thread at a time."""
        with _ONE_AT_A_TIME:
            modules = list(self.network.modules())
            training = [m for m in modules if m.training]
            # a plain walk: `parameters()` builds a name for each, which costs as much as a small layer
            frozen = [p for m in modules for p in m._parameters.values() if p is not None and p.requires_grad]
            try:
                if training:
                    self.network.eval()
                for p in frozen:
                    p.requires_grad_(False)
                yield
            finally:
                for module in training:
                    module.training = True
                for p in frozen:
                    p.requires_grad_(True)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of SHA-256 over names, shapes and bytes of all parameters and buffers."""
        held = [t for m in self.network.modules() for d in (m._parameters, m._buffers) for t in d.values()]
        key = tuple((t.data_ptr(), t._version) for t in held if t is not None)
        if self._print is None or self._print[0] != key:
            state = self.network.state_dict(keep_vars=True)
            digest = hashlib.sha256()
            for name, t in state.items():
                if isinstance(t, Tensor):
                    flat = t.detach().cpu().contiguous()
                    digest.update(f"{name}{tuple(t.shape)}{t.dtype}".encode())
                    digest.update(flat.reshape(-1).view(torch.uint8).numpy().data if flat.numel() else b"")
            self._print = (key, digest.hexdigest()[:16])
        return self._print[1]

    def explain(
        self, image: Any, method: str = "grad_cam", target: Any = None, *, seed: int = 0, **options: Any
    ) -> Result:
        """Explain one picture by one method.

        Parameters
        ----------
        image : path, PIL image, array or tensor.
        method : a name from `cutaway methods`.
        target : a class number or name, a `Target`, a function of the output; the predicted class when None.
        seed : of the methods that draw random numbers.
        options : of the method; a wrong name or value is refused.

        Returns an `Attribution` (or what the method gives) that shows itself in a notebook.
        Raises `UnknownNameError`, `UsageError`, `InputError` or `MethodRefusedError`.
        """
        return self.draw(target, method, image=image, seed=seed, **options)[0]

    def draw(
        self,
        target: Any = None,
        method: str = "feature_visualization",
        *,
        image: Any = None,
        given: Mapping[Any, Any] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> list[Result]:
        """The pictures a method makes, one for each target asked together or each picture of a batch.

        `target` is as for `explain`, or one number per picture, such as `channel("layer3", torch.arange(64))`;
        `given` holds what else the method needs, such as {DATA: pictures}. Raises as `explain` does.
        """
        from cutaway.methods import get

        from .progress import finish
        from .run import explain

        return finish(explain(self, get(method), image, target, options, given=given, seed=seed))

    def inspect(self, method: str, *, seed: int = 0, **options: Any) -> Result:
        """Look at the network alone, by a method that needs no picture, such as "filters".

        Raises `UnknownNameError`, `UsageError` or `MethodRefusedError`.
        """
        return self.draw(None, method, seed=seed, **options)[0]

    def check_finite(self, values: Tensor, x: Tensor | None) -> None:
        """Raise `InputError` saying where a NaN or infinity was first seen, if there is one in `values`."""
        if bool(torch.isfinite(values).all()):
            return
        if x is not None and not bool(torch.isfinite(x).all()):
            raise InputError(
                "the picture holds NaN or infinity", "finite pixels in [0, 1]", "another picture"
            )
        for name, t in self.network.state_dict().items():
            if t.is_floating_point() and not bool(torch.isfinite(t).all()):
                raise InputError(
                    f"the weights hold NaN or infinity, first in {name!r}", "finite weights", "another file"
                )
        if x is None:
            raise InputError("the numbers overflow to NaN or infinity", "finite numbers", "float64 weights")
        first: list[str] = []

        def watch(name: str) -> Any:
            def hook(module: Any, args: Any, out: Any) -> None:
                if not first and isinstance(out, Tensor) and not bool(torch.isfinite(out).all()):
                    first.append(name)

            return hook

        with ExitStack() as stack, torch.no_grad():
            for name, module in self.network.named_modules():
                stack.callback(module.register_forward_hook(watch(name)).remove)
            self(x)
        where = f"first in the output of layer {first[0]!r}" if first else "in the backward pass"
        raise InputError(
            f"the computation overflows to NaN or infinity, {where}",
            "finite numbers",
            "float32 or float64 weights",
        )

    def _explained(self, error: Exception, x: Tensor) -> Exception:
        if isinstance(error, CutawayError):
            return error
        text = (str(error).splitlines() or [type(error).__name__])[0]
        if "Cannot set version_counter" in text or "out of memory" in text.lower():
            return error
        return InputError(
            f"the network cannot take a picture of {x.shape[-2]}x{x.shape[-1]} pixels ({text})",
            "the size and channels it was built for",
            'preprocess={"resize": 256, "crop": 224}, or another picture',
        )


def _scores(out: Any) -> Tensor:
    """The class scores in whatever a network returns: a tensor, an object with `.logits`, a dict with "out"."""
    if isinstance(out, Tensor):
        return out
    logits = getattr(out, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(out, Mapping):
        for key in ("logits", "out"):
            if isinstance(out.get(key), Tensor):
                value: Tensor = out[key]
                return value
    raise MethodRefusedError(
        f"the network returns a {type(out).__name__}",
        "a tensor of scores, .logits, or a dict with 'logits' or 'out'",
        "a small wrapper module that returns the scores",
    )
