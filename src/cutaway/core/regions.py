"""Sets of positions at one value while a receptive field is walked back to the picture."""

from __future__ import annotations

from dataclasses import dataclass

from .axes import Kind
from .reading import POSITIONS
from .steps import Channels, Interval


@dataclass
class Region:
    """Pixels asked for at one value: an interval as if there were no ends, and the set that is really there."""

    virtual: dict[Kind, Interval]
    inside: dict[Kind, int]
    channels: Channels

    @property
    def seen(self) -> bool:
        """Whether anything is really there; rows without columns are nothing."""
        return all(self.inside.values())

    def holds(self, region: Region) -> bool:
        """Whether the other region is part of this one."""
        if self.channels is not None and (region.channels is None or not region.channels <= self.channels):
            return False
        for kind in POSITIONS:
            (a, b), (c, d) = self.virtual[kind], region.virtual[kind]
            if c < a or d > b or region.inside[kind] & ~self.inside[kind]:
                return False
        return True

    def hull(self, region: Region) -> Region:
        """The smallest region that holds both."""
        grown: dict[Kind, Interval] = {}
        for kind in POSITIONS:
            (a, b), (c, d) = self.virtual[kind], region.virtual[kind]
            grown[kind] = (min(a, c), max(b, d))
        inside = self.inside if self.seen else region.inside
        if self.seen and region.seen:
            inside = {kind: self.inside[kind] | region.inside[kind] for kind in POSITIONS}
        either = None
        if self.channels is not None and region.channels is not None:
            either = self.channels | region.channels
        return Region(grown, inside, either)


_APART = 8  # regions of one value of which none holds the other are kept apart up to this number, then joined


def gather(regions: list[Region], new: Region) -> list[Region]:
    """The regions with one more: what another holds is dropped, so that a hull is taken as late as can be."""
    if any(region.holds(new) for region in regions):
        return regions
    kept = [region for region in regions if not new.holds(region)]
    return [*kept, new] if len(kept) < _APART else [*kept[1:], kept[0].hull(new)]
