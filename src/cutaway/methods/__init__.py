"""One package per chapter, one file per idea; importing this package registers every method."""

import importlib
import pkgutil

from cutaway.core.method import METHODS, Method, get

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

__all__ = ["METHODS", "Method", "get"]
