"""Shards as tasks of a Ray cluster; the only file that imports ray."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cutaway.core.errors import CutawayError, InputError, missing
from cutaway.core.progress import Progress, finish

from .build import Engine, Work, timed


def on_ray(*, address: str | None = None, workers: int | None = None, tries: int = 3) -> Engine:
    """An engine that runs shards as Ray tasks, each with the plan's threads; the files are those of the local engine.

    Parameters
    ----------
    address : of a running cluster ("auto" finds it); without one, a local cluster is started and stopped again.
    workers : tasks at a time; as many as the cluster has room for when None.
    tries : how often a shard is tried; a lost worker costs its shard another try and no other shard anything.

    The folder of the atlas, and the pictures' own, must be one that every worker reaches. Raises
    `MissingDependencyError` without ray, and once all others are done `InputError` for shards that failed each time.
    """

    def engine(work: Work, parts: Sequence[int]) -> Iterator[Progress]:
        try:
            import ray
        except ImportError as error:
            raise missing("ray", "ray", "--engine ray") from error
        own = not ray.is_initialized()
        os.environ.setdefault(
            "RAY_USAGE_STATS_ENABLED", "0"
        )  # a sweep of someone's pictures reports to nobody
        if own:
            room: dict[str, Any] = {} if address else {"num_cpus": (workers or 2) * work.plan.threads}
            ray.init(
                address=address, include_dashboard=False, log_to_driver=False, configure_logging=False, **room
            )
        try:
            yield from _run(ray, work, parts, workers, tries)
        finally:
            if own:
                ray.shutdown()

    return engine


def _run(ray: Any, work: Work, parts: Sequence[int], workers: int | None, tries: int) -> Iterator[Progress]:
    task = ray.remote(num_cpus=work.plan.threads, max_retries=tries - 1, retry_exceptions=False)(_part)
    held = ray.put(work)
    most = workers or max(1, int(ray.cluster_resources().get("CPU", 1) // work.plan.threads))
    total, done, start = sum(map(work.size, parts)), 0, time.perf_counter()
    waiting, running, failed = list(parts), dict[Any, int](), dict[int, Exception]()
    while waiting or running:
        while waiting and len(running) < most:
            part = waiting.pop(0)
            running[task.remote(held, part)] = part
        ready, _ = ray.wait(list(running), num_returns=1)
        for reference in ready:
            part = running.pop(reference)
            try:
                ray.get(reference)
            except (
                ray.exceptions.RayTaskError
            ) as error:  # the part itself says no: another try would say the same
                failed[part] = error.cause if isinstance(error.cause, Exception) else error
            except ray.exceptions.RayError as error:
                failed[part] = error
            done += work.size(part)
            yield timed(done, total, start)
    if failed:
        first = failed[min(failed)]
        if isinstance(first, CutawayError):
            raise first
        raise InputError(
            f"{len(failed)} of {len(parts)} parts failed ({', '.join(work.name(n) for n in sorted(failed)[:3])}): "
            f"{str(first).strip().splitlines()[-1]}",
            "workers that live and reach the pictures and the atlas",
            "the same command again: what was finished is kept",
        )


def _part(work: Work, part: int) -> None:
    finish(work.run(part))
