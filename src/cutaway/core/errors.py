"""Every error a person can cause, in three parts: what was found, what is accepted, what to try."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class CutawayError(Exception):
    """A mistake a person can mend.

    Parameters
    ----------
    found : what was given or met.
    accepted : what would have been right.
    hint : what to try next.

    >>> str(UsageError("steps=0", "a whole number from 1 to 512", "steps=32"))
    'steps=0. Accepted: a whole number from 1 to 512. Try: steps=32.'
    """

    exit_code: ClassVar[int] = 1
    title: ClassVar[str] = "error"

    def __init__(self, found: str, accepted: str = "", hint: str = "") -> None:
        self.found, self.accepted, self.hint = found.rstrip("."), accepted.rstrip("."), hint.rstrip(".")
        parts = [self.found]
        if accepted:
            parts.append(f"Accepted: {self.accepted}")
        if hint:
            parts.append(f"Try: {self.hint}")
        super().__init__(". ".join(parts) + ".")


class UsageError(CutawayError):
    """A wrong call: an option out of range, a combination that has no meaning."""

    exit_code = 2
    title = "wrong usage"


class InputError(CutawayError):
    """Something that cannot be read or written: pictures, weights, output files."""

    exit_code = 3
    title = "unreadable input or unwritable output"


class UnknownNameError(CutawayError):
    """A model, layer, class, method or option that does not exist."""

    exit_code = 4
    title = "unknown name"


class MissingDependencyError(CutawayError):
    """An optional library that is not installed."""

    exit_code = 5
    title = "optional dependency missing"


class MethodRefusedError(CutawayError):
    """A method that would be wrong on this network, said instead of drawn."""

    exit_code = 6
    title = "method refused"


def unknown(kind: str, name: object, choices: Iterable[str], *, hint: str = "") -> UnknownNameError:
    """The error for a name that is not in a list, with the nearest names.

    >>> str(unknown("layer", "layer5", ["layer3", "layer4", "fc"]))
    "no layer named 'layer5'. Accepted: 3 names, nearest: layer4, layer3. Try: 'layer4'."
    """
    names = list(dict.fromkeys(choices))
    near = difflib.get_close_matches(str(name), names, n=4, cutoff=0.4)
    folded = {n.casefold(): n for n in names}
    for n in difflib.get_close_matches(str(name).casefold(), folded, n=4, cutoff=0.4):
        if folded[n] not in near:
            near.append(folded[n])
    if len(names) <= 12:
        accepted = (
            ", ".join(names)
            if not near or len(names) <= 2
            else f"{len(names)} names, nearest: {', '.join(near)}"
        )
    else:
        accepted = f"{len(names)} names" + (
            f", nearest: {', '.join(near)}" if near else f", such as {', '.join(names[:4])}"
        )
    return UnknownNameError(
        f"no {kind} named {str(name)!r}", accepted, hint or (repr(near[0]) if near else "")
    )


def missing(package: str, extra: str, why: str) -> MissingDependencyError:
    """The error for an optional library, with the line that installs it.

    >>> missing("timm", "timm", "timm: models").hint
    "pip install 'cutaway[timm]'"
    """
    return MissingDependencyError(
        f"{why} needs {package}, which is not installed", "", f"pip install 'cutaway[{extra}]'"
    )
