"""Stacks on a Ray cluster: its processes train them, and the one that was started receives their epochs and writes.

No disk is shared: the data sets lie in Ray's object store once, checkpoints come and go with messages. A stack whose
process is lost (killed, or its node is gone) is trained by another from the last commit of its shards; the third time
it is given up. (Actors, not streaming tasks, which Ray Client has not.)
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, NamedTuple

from bnexp.devices import room_for_stacks
from bnexp.errors import DeviceUnavailable, UsageError
from bnexp.executors import (
    LOOK_EVERY,
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
from bnexp.origin import device_name
from bnexp.plan import Stack
from bnexp.workers import THREADS, available_cores, one_thread

TRIES = 3  # of a stack, before it is given up
AHEAD = 1  # stacks that wait in Ray for a free core: an autoscaler sees that more are wanted


class Cluster(NamedTuple):
    """Which cluster, and what a task asks for: one CPU, or a part of a GPU.

    ``address``: ``auto`` joins the running cluster, ``local`` starts one on this machine, or ``ray://HOST:PORT``.
    """

    address: str = "auto"
    gpus_per_task: float = 0.0


class Place(NamedTuple):
    """What a cluster offers: how many tasks at once, on which device, and the bytes free there for a task's stack."""

    slots: int
    device: str
    room: int | None


@contextmanager
def connected(cluster: Cluster, workers: int | None) -> Iterator[Place]:
    """Be a driver of the cluster; gives what it offers.

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
        resources: Any = ray.cluster_resources
        there: dict[str, float] = resources()
        if cluster.gpus_per_task and not there.get("GPU"):
            raise DeviceUnavailable(f"--gpus-per-task {cluster.gpus_per_task:g}: the cluster has no GPU")
        device, room = "cpu", None
        free = int(there.get("CPU", 1))
        if cluster.gpus_per_task:
            look = ray.remote(_look_at_gpu).options(num_cpus=0, num_gpus=cluster.gpus_per_task)
            device, room = ray.get(look.remote(cluster.gpus_per_task))
            free = int(there["GPU"] / cluster.gpus_per_task)
        yield Place(max(1, min(free, workers or free)), device, room)
    finally:
        ray.shutdown()


def _look_at_gpu(share: float) -> tuple[str, int]:
    """The device of a task, and four fifths of its share of the memory that is free there, in bytes."""
    room = room_for_stacks("cuda", share)
    assert room is not None
    return device_name("cuda"), room


def run_on_ray(
    stacks: Sequence[Stack], job: Job, cluster: Cluster, slots: int, saved: Saved, stop: Callable[[], bool]
) -> Messages:
    """Train every stack on the cluster, as ``bnexp.executors.run_stacks`` does here; once ``stop`` says so, cancel."""
    crew = _Crew(stacks, job, cluster, saved)
    try:
        while crew.waiting or crew.busy:
            crew.deal(slots + AHEAD)
            for trainer in crew.ready():
                yield from crew.take(trainer)
            if stop():
                return
    finally:
        crew.close()


class _Trainer:
    """A process of the cluster: one stack at a time, a message a call."""

    def begin(self, index: int, stack: Stack, begun: Sequence[Begun | None], job: Job) -> bool:
        """Take up a stack."""
        self.asked, self.device = False, job.device
        self.messages = train_stack(index, stack, begun, job, self._wanted)
        return True

    def more(self, asked: bool) -> Message | None:
        """Train until there is something to say; ``asked`` for a checkpoint. None after the last message."""
        from bnexp.origin import computed_by

        self.asked |= asked
        with one_thread():
            message = next(self.messages, None)
        if message is not None and message.device_lost:
            raise RuntimeError("the device was lost")
        if message is None or message.arrays is None:
            return message
        return message._replace(computed_by={**computed_by(self.device), "host": socket.gethostname()})

    def _wanted(self) -> bool:
        asked, self.asked = self.asked, False
        return asked


class _Crew:
    """The cluster's trainers, who trains what, and the stacks that wait."""

    def __init__(self, stacks: Sequence[Stack], job: Job, cluster: Cluster, saved: Saved) -> None:
        import ray

        self.ray, self.stacks, self.saved = ray, stacks, saved
        self.waiting = deque(range(len(stacks)))
        self.idle: list[Any] = []
        self.busy: dict[Any, int] = {}  # trainer -> stack
        self.expected: dict[Any, deque[Any]] = {}  # trainer -> its next messages
        self.lost = [0] * len(stacks)
        self.job = ray.put(job)
        gpus = cluster.gpus_per_task
        self.trainer: Any = ray.remote(_Trainer).options(num_cpus=0 if gpus else 1, num_gpus=gpus, max_restarts=0)

    def deal(self, most: int) -> None:
        """Give stacks to idle trainers, and to new ones while there are not too many."""
        while self.waiting and (self.idle or len(self.busy) < most):
            trainer: Any = self.idle.pop() if self.idle else self.trainer.remote()
            index = self.busy[trainer] = self.waiting.popleft()
            stack = self.stacks[index]
            begins = trainer.begin.remote(index, stack, begun_of(stack, self.saved), self.job)
            # Two calls ahead: it trains on while a message is on its way.
            self.expected[trainer] = deque([begins, *(trainer.more.remote(False) for _ in range(2))])

    def ready(self) -> list[Any]:
        """Trainers that have something to say."""
        heads = {calls[0]: trainer for trainer, calls in self.expected.items()}
        if not heads:
            return []
        found, _ = self.ray.wait(list(heads), num_returns=len(heads), timeout=0)
        if not found:
            found, _ = self.ray.wait(list(heads), num_returns=1, timeout=LOOK_EVERY)
        return [heads[call] for call in found]

    def take(self, trainer: Any) -> Messages:
        """A trainer's next message, or that it is gone."""
        index, stack = self.busy[trainer], self.stacks[self.busy[trainer]]
        try:
            message = self.ray.get(self.expected[trainer].popleft())
            if message is None:
                raise RuntimeError("the task ended before its last epoch")
        except (self.ray.exceptions.RayError, RuntimeError) as error:
            self.dismiss(trainer)
            self.lost[index] += 1
            if self.lost[index] < TRIES:
                self.waiting.appendleft(index)
                yield go_on_again(index, stack)
            else:
                why = str(error).strip().splitlines()[-1]
                yield given_up(index, stack, f"its task was lost {TRIES} times: {why}")
            return
        if message is True:  # it has begun
            return
        if message.done:
            if self.waiting:
                del self.busy[trainer], self.expected[trainer]
                self.idle.append(trainer)
            else:  # another may wait for its CPU
                self.dismiss(trainer)
            yield message
        else:
            asked = yield message
            self.expected[trainer].append(trainer.more.remote(bool(asked)))

    def dismiss(self, trainer: Any) -> None:
        """Let a trainer go, whatever it does."""
        del self.busy[trainer], self.expected[trainer]
        with suppress(Exception):  # it is gone, or the cluster is
            self.ray.kill(trainer)

    def close(self) -> None:
        """End all of them."""
        for trainer in list(self.busy):
            self.dismiss(trainer)
        for trainer in self.idle:
            with suppress(Exception):
                self.ray.kill(trainer)
