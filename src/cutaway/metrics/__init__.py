"""Whether an explanation is true: metrics over a network, a picture and a map; importing this registers every one."""

import importlib
import pkgutil

from .metric import METRICS, Case, Metric, UndefinedError, get

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

__all__ = ["METRICS", "Case", "Metric", "UndefinedError", "get"]
