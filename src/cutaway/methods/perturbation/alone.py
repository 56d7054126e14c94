"""A target of a batch as the target of one of its pictures."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.target import Logit, Predicted, Probability, Reader, Target


def alone(target: Target, sample: int) -> Target:
    """The target of one picture of the batch, to be read on any number of its variants.

    A class number per picture becomes that picture's number, a predicted class the logit that was found for it.
    Raises `UsageError` when a predicted class was not decided yet (`run.settle`).

    >>> import torch
    >>> from cutaway.core.target import logit
    >>> alone(logit(torch.tensor([3, 5])), 1)
    logit 5
    """
    return Target(tuple((weight, _reader(reader, sample)) for weight, reader in target.terms))


def class_of(target: Target) -> int | None:
    """The class that a target of one picture is about, when it is one logit or probability; else None."""
    if len(target.terms) == 1:
        reader = target.terms[0][1]
        if isinstance(reader, (Logit, Probability)) and isinstance(reader.index, int):
            return reader.index
    return None


def _reader(reader: Reader, sample: int) -> Reader:
    if isinstance(reader, Predicted):
        if not reader.found:
            raise UsageError(
                "the predicted class was not decided yet", "a target that was settled on the pictures"
            )
        index = int(reader.found[0][sample])
        return Logit(index, reader.names[index] if reader.names else "")
    if isinstance(reader, (Logit, Probability)) and isinstance(reader.index, Tensor):
        return replace(reader, index=int(reader.index[sample]))
    return reader
