"""Many pictures as a network sees them: read ahead by threads, in order, in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.errors import InputError, UsageError
from cutaway.core.model import VisionModel

from .folder import PictureSource


class Batch(NamedTuple):
    """Some pictures in the order of their numbers in the request.

    `ids` (n,) int64 are picture numbers, `labels` (n,) int64 class numbers (-1 where unknown), `pixels`
    (n, C, H, W) what the network sees, on its device, in [0, 1], and `sizes` (n, 2) int64 height and width of
    the pictures before they were resized, upright.
    """

    ids: Tensor
    labels: Tensor
    pixels: Tensor
    sizes: Tensor


class Unread(NamedTuple):
    """A picture that was left out: its number, its name, and what is wrong with it in words."""

    number: int
    name: str
    reason: str


def left_out(unread: Sequence[Unread], most: int = 10) -> tuple[str, ...]:
    """What a reader must know of pictures that were left out: each once, the first `most` by name.

    >>> left_out([Unread(3, "a.jpg", "no picture"), Unread(3, "a.jpg", "no picture")])
    ('left out: a.jpg: no picture',)
    """
    each = _each(unread)
    named = tuple(f"left out: {one.name}: {one.reason}" for one in each[:most])
    return named + ((f"left out: {len(each) - most} more",) if len(each) > most else ())


def none_read(unread: Sequence[Unread]) -> InputError:
    """The refusal where not one picture could be read."""
    each = _each(unread)
    first = f": {each[0].reason.partition('. Accepted')[0]}" if each else ""
    return InputError(f"none of {len(each)} pictures can be read{first}", "pictures", "another folder")


def _each(unread: Sequence[Unread]) -> list[Unread]:
    return list({one.number: one for one in unread}.values())


class _Loaded(NamedTuple):
    number: int
    pixels: Tensor
    size: tuple[int, int]


def batches(
    model: VisionModel,
    pictures: PictureSource,
    numbers: Sequence[int],
    size: int = 32,
    *,
    workers: int = 2,
    unread: list[Unread] | None = None,
) -> Iterator[Batch]:
    """The pictures of these numbers, decoded and preprocessed with the bits of `VisionModel.pixels`.

    Parameters
    ----------
    numbers : picture numbers in the order wanted, such as a shard's `range(1000, 2000)`.
    size : pictures in a batch. Batches are cut from `numbers`, so a picture that cannot be read makes its own
        batch smaller and moves no other; where the preprocessing keeps the pictures' own sizes, a batch also
        ends where the size changes. A batch without any picture is not given.
    workers : threads that read ahead; 0 reads in the calling thread. Decoding and resizing leave Python's
        lock free, so threads run side by side, and no process is started: the call works in a thread, in a
        worker of a cluster, and wherever processes are spawned.
    unread : takes what could not be read, in order, and the pictures are left out; without it the first such
        picture raises its `InputError`.

    At most two batches of preprocessed pixels are held, and one decoded picture (of at most 100 megapixels) for
    each worker. Raises `UsageError` for numbers that are no pictures, and sizes and workers out of range.
    """
    if not 1 <= size <= 65536:
        raise UsageError(f"size={size}", "1 to 65536 pictures a batch", "size=32")
    if not 0 <= workers <= 256:
        raise UsageError(f"workers={workers}", "0 to 256 threads", "workers=2")
    outside = next((k for k in numbers if not 0 <= k < len(pictures)), None)
    if outside is not None:
        raise UsageError(f"picture {outside}", f"numbers from 0 to {len(pictures) - 1}")
    return _batches(model, pictures, numbers, size, workers, unread)


def _batches(
    model: VisionModel,
    pictures: PictureSource,
    numbers: Sequence[int],
    size: int,
    workers: int,
    unread: list[Unread] | None,
) -> Iterator[Batch]:
    fit = model.preprocess.fit

    def load(number: int) -> _Loaded | InputError:
        try:
            photo = pictures.photo(number)
            return _Loaded(number, fit(photo), photo.size)
        except InputError as error:
            return error

    loaded = _ahead(load, numbers, workers, size)
    try:
        for start in range(0, len(numbers), size):
            run: list[_Loaded] = []
            for number in numbers[start : start + size]:
                one = next(loaded)
                if isinstance(one, InputError):
                    if unread is None:
                        raise one
                    unread.append(Unread(number, pictures.names[number], str(one)))
                    continue
                if run and run[0].pixels.shape != one.pixels.shape:
                    yield _joined(model, pictures, run)
                    run = []
                run.append(one)
            if run:
                yield _joined(model, pictures, run)
    finally:
        loaded.close()


def _joined(model: VisionModel, pictures: PictureSource, run: list[_Loaded]) -> Batch:
    ids = torch.tensor([one.number for one in run])
    labels = torch.full_like(ids, -1) if pictures.labels is None else pictures.labels[ids]
    pixels = torch.cat([one.pixels for one in run]).to(model.device, model.dtype)
    return Batch(ids, labels, pixels, torch.tensor([one.size for one in run]))


def _ahead(
    load: Callable[[int], _Loaded | InputError], numbers: Sequence[int], workers: int, most: int
) -> Generator[_Loaded | InputError, None, None]:
    """`load` of every number in order, at most `most` of them (and one for each worker) before they are asked."""
    if not workers:
        yield from map(load, numbers)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pictures")
    waiting: deque[Future[_Loaded | InputError]] = deque()
    try:
        for number in numbers:
            waiting.append(pool.submit(load, number))
            if len(waiting) >= most + workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
