"""Networks by name: `load` takes every kind of model spec."""

from .load import load

__all__ = ["load"]
