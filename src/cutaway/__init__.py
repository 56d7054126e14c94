"""See what a vision network has learned, why it gave this answer, where it breaks, and whether that is true.

>>> import cutaway
>>> model = cutaway.load("cutaway:scenes")                      # doctest: +SKIP
>>> model.explain("photo.jpg", "saliency", target=cutaway.logit("boat") - cutaway.logit("house"))  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .core.errors import CutawayError as CutawayError
    from .core.model import VisionModel as VisionModel
    from .core.preprocess import Preprocess as Preprocess
    from .core.progress import Progress as Progress
    from .core.result import Attribution as Attribution
    from .core.result import load_result as load_result
    from .core.rules import backward_rules as backward_rules
    from .core.tap import Tap as Tap
    from .core.target import Target as Target
    from .core.target import channel as channel
    from .core.target import custom as custom
    from .core.target import direction as direction
    from .core.target import logit as logit
    from .core.target import predicted as predicted
    from .core.target import probability as probability
    from .core.target import token as token
    from .core.target import unit as unit
    from .methods import METHODS as METHODS
    from .zoo.load import load as load

_HOME = {
    "CutawayError": "core.errors",
    "VisionModel": "core.model",
    "Preprocess": "core.preprocess",
    "Progress": "core.progress",
    "Attribution": "core.result",
    "load_result": "core.result",
    "backward_rules": "core.rules",
    "Tap": "core.tap",
    "Target": "core.target",
    "channel": "core.target",
    "custom": "core.target",
    "direction": "core.target",
    "logit": "core.target",
    "predicted": "core.target",
    "probability": "core.target",
    "token": "core.target",
    "unit": "core.target",
    "METHODS": "methods",
    "load": "zoo.load",
}
__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import cutaway` costs next to nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'cutaway' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
