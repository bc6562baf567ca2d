"""Stacks on a Ray cluster: a task trains one, streams its epochs back, and the process that was started writes them.

No disk is shared: the data sets lie in Ray's object store once, checkpoints come and go with the tasks. A task that is
lost (its process killed, its node gone) is started again from the last commit of its shards, three times.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, NamedTuple

from bnexp.errors import DeviceUnavailable, UsageError
from bnexp.executors import (
    LOOK_EVERY,
    REPLACEMENTS,
    Begun,
    Job,
    Message,
    Messages,
    Saved,
    begun_of,
    given_up,
    go_on_again,
    train_stack,
)
from bnexp.plan import Stack
from bnexp.workers import THREADS, available_cores, one_thread

CHECKPOINT_EVERY = 2.0  # seconds after which a task sends one unasked: nobody can ask it
AHEAD = 2  # tasks that wait in Ray for a free core, so that none is idle


class Cluster(NamedTuple):
    """Which cluster, and what a task asks for: one CPU, or a part of a GPU.

    ``address``: ``auto`` joins the running cluster, ``local`` starts one on this machine, or ``ray://HOST:PORT``.
    """

    address: str = "auto"
    gpus_per_task: float = 0.0


@contextmanager
def connected(cluster: Cluster, workers: int | None) -> Iterator[int]:
    """Be a driver of the cluster; gives how many tasks it can run at once.

    Raises UsageError where the extra is missing, and DeviceUnavailable where there is no such cluster, or no GPU in it.
    """
    if find_spec("ray") is None:
        raise UsageError("--executor ray: needs ray, which is not installed; pip install 'bnexp[ray]'")
    import ray

    local = cluster.address == "local"
    options: dict[str, Any] = {"num_cpus": workers or available_cores(), "include_dashboard": False} if local else {}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns that it will change its mind
    try:
        ray.init(
            address=cluster.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": THREADS},
            **options,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise DeviceUnavailable(
            f"--address {cluster.address}: no Ray cluster ({why}); start one (ray start --head), or use --address local"
        ) from None
    try:
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if cluster.gpus_per_task and not there.get("GPU"):
            raise DeviceUnavailable(f"--gpus-per-task {cluster.gpus_per_task:g}: the cluster has no GPU")
        free = there["GPU"] / cluster.gpus_per_task if cluster.gpus_per_task else there.get("CPU", 1)
        yield max(1, min(int(free), workers or int(free)))
    finally:
        ray.shutdown()


def run_on_ray(
    stacks: Sequence[Stack], job: Job, cluster: Cluster, slots: int, saved: Saved, stop: Callable[[], bool]
) -> Messages:
    """Train every stack in tasks, as ``bnexp.executors.run_stacks`` does in workers; once ``stop`` says so, cancel."""
    tasks = _Tasks(stacks, job, cluster, saved)
    try:
        while tasks.waiting or tasks.running:
            while tasks.waiting and len(tasks.running) < slots + AHEAD:
                tasks.submit()
            for index in tasks.ready():
                yield from tasks.take(index)
            if stop():
                return
    finally:
        tasks.cancel()


class _Tasks:
    """Stacks that wait, and the tasks that train the others."""

    def __init__(self, stacks: Sequence[Stack], job: Job, cluster: Cluster, saved: Saved) -> None:
        import ray

        self.ray, self.stacks, self.saved = ray, stacks, saved
        self.waiting = deque(range(len(stacks)))
        self.running: dict[int, Any] = {}  # stack -> its stream of messages
        self.lost = [0] * len(stacks)
        self.job = ray.put(job)
        self.remote = ray.remote(_train_remotely).options(
            num_cpus=0 if cluster.gpus_per_task else 1,
            num_gpus=cluster.gpus_per_task,
            max_retries=0,
            num_returns="streaming",
        )

    def submit(self) -> None:
        """Hand the next stack over."""
        index = self.waiting.popleft()
        stack = self.stacks[index]
        self.running[index] = self.remote.remote(index, stack, begun_of(stack, self.saved), self.job)

    def ready(self) -> list[int]:
        """Stacks of which there is something to take."""
        streams = {stream: index for index, stream in self.running.items()}
        if not streams:
            return []
        found, _ = self.ray.wait(list(streams), num_returns=len(streams), timeout=0, fetch_local=False)
        if not found:
            found, _ = self.ray.wait(list(streams), num_returns=1, timeout=LOOK_EVERY, fetch_local=False)
        return [streams[stream] for stream in found]

    def take(self, index: int) -> Iterator[Message]:
        """The next message of a stack, or that its task is gone."""
        try:
            message = self.ray.get(next(self.running[index]))
        except StopIteration:  # ended, and its last message did not say so
            why = "the task ended early"
        except self.ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[-1]
        else:
            if message.done:
                del self.running[index]
            yield message
            return
        del self.running[index]
        self.lost[index] += 1
        stack = self.stacks[index]
        if self.lost[index] > REPLACEMENTS:
            yield given_up(index, stack, f"its task was lost {self.lost[index]} times: {why}")
        else:
            yield go_on_again(index, stack)
            self.waiting.appendleft(index)

    def cancel(self) -> None:
        """End what still runs."""
        for stream in self.running.values():
            with suppress(Exception):  # the cluster may be gone
                self.ray.cancel(stream, force=False)


def _train_remotely(index: int, stack: Stack, begun: Sequence[Begun | None], job: Job) -> Iterator[Message]:
    """A task's life: messages of one stack, every few seconds with a checkpoint."""
    from bnexp.origin import computed_by

    last = time.monotonic()

    def wanted() -> bool:
        return time.monotonic() - last > CHECKPOINT_EVERY

    with one_thread():
        here = {**computed_by(job.device), "host": socket.gethostname()}
        for message in train_stack(index, stack, begun, job, wanted):
            if message.device_lost:
                raise RuntimeError("the device was lost")
            if message.arrays is not None:
                last, message = time.monotonic(), message._replace(computed_by=here)
            yield message
