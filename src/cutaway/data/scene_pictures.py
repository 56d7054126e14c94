"""Generated scenes as numbered pictures, for whatever goes over the pictures of a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.image import Photo, read

from .scenes import CLASSES, Scenes


class ScenePictures:
    """Scenes with the face of `Pictures`: numbers, names, stated class numbers, and a fingerprint.

    >>> pictures = ScenePictures(Scenes(3))
    >>> pictures.photo(1).size, pictures.labels.shape, pictures.names[1]
    ((112, 112), torch.Size([3]), 'scene 1')
    """

    classes = CLASSES
    labels_from = "generated scenes"

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        self.names = tuple(f"scene {k}" for k in range(len(scenes)))

    def __len__(self) -> int:
        return len(self.scenes)

    @cached_property
    def labels(self) -> Tensor:
        """Stated class numbers (n,), int64; found by drawing every scene once."""
        return torch.tensor([scene.label for scene in self.scenes], dtype=torch.int64)

    def photo(self, number: int) -> Photo:
        """The scene `number`, uint8 RGB. Raises `UsageError` outside 0 ... n - 1."""
        if not 0 <= number < len(self):
            raise UsageError(f"picture {number}", f"a number from 0 to {len(self) - 1}")
        return replace(read(self.scenes[number].image), name=self.names[number])

    def fingerprint(self, numbers: Sequence[int] | None = None) -> str:
        """SHA-256, in hexadecimal, over numbers, pixels and stated classes."""
        whole = hashlib.sha256()
        for number in range(len(self)) if numbers is None else numbers:
            scene = self.scenes[number]
            whole.update(f"{number} {scene.image.shape} {scene.label}\n".encode())
            whole.update(scene.image.tobytes())
        return whole.hexdigest()
