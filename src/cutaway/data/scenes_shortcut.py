"""Fish in the snow, birds anywhere else: two classes that the background tells apart as well as the animal does.

After the huskies and wolves of Ribeiro, Singh & Guestrin 2016 (arXiv:1602.04938, sec. 6.4), where every wolf stood
in snow and no husky did. Here the animal is known pixel by pixel, and any scene can be drawn again elsewhere.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cutaway.data.scenes import BACKGROUNDS, CLASSES, SIZE, Bias, Scene, scene

KINDS = ("bird", "fish")
"""The two classes, the only animals among the scenes; the second plays the wolf."""
SNOW = "winter"
"""The background of every fish, and of no bird."""

Placing = Literal["matched", "swapped", "independent"]


def animal(index: int, *, seed: int, placing: Placing, size: int = SIZE) -> Scene:
    """Scene `index` of the world `seed`: birds and fish in turn, each with the background that `placing` gives it.

    "matched": fish in winter, birds on one of the other four backgrounds at random. "swapped": each on the other's.
    "independent": a coin decides whose, so every background is as frequent as before and tells nothing. Animal, land,
    pose and colours are the same in all three. Raises UsageError for an index, seed or size outside its range.

    >>> [animal(7, seed=0, placing=p).background for p in ("matched", "swapped")]
    ['winter', 'night']
    """
    kind = index % 2
    chance = np.random.default_rng([max(seed, 0), max(index, 0), 4])
    coin = int(chance.integers(2))
    whose = {"matched": kind, "swapped": 1 - kind, "independent": coin}[placing]
    shares = Bias({KINDS[1]: SNOW}, strength=1.0).shares(KINDS[whose])
    background = str(chance.choice(BACKGROUNDS, p=[shares[name] for name in BACKGROUNDS]))
    return scene(index, seed=seed, size=size, label=CLASSES.index(KINDS[kind]), background=background)
