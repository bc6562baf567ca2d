"""Stacks on a Ray cluster: its processes train them, and the one that was started receives their epochs and writes.

No disk is shared: the data sets lie in Ray's object store once, checkpoints come and go with messages. A stack whose
process is lost (killed, or its node is gone) is trained by another from the last commit of its shards; the third time
it is given up. One whose process was ended for want of memory is trained by half of its shards at a time. (Actors, not
streaming tasks, which Ray Client has not.)
"""

from __future__ import annotations

import logging
import os
import socket
import textwrap
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bnexp.devices import room_for_stacks
from bnexp.errors import DeviceLost, DeviceUnavailable, UsageError
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
from bnexp.workers import THREADS, available_cores, keep_memory, one_thread

TRIES = 3  # of a stack, before it is given up
AHEAD = 1  # processes that wait in Ray for a free core: an autoscaler sees that more are wanted
CURRENT = "/tmp/ray/ray_current_cluster"  # where Ray keeps the address of the cluster that runs here
LISTENS_SECONDS = 10.0  # that a cluster has to answer
GPU_SECONDS = 60.0  # that a first look at a GPU may have to wait for it
READY = 10.0  # seconds at most that the study waits, before it begins, for the first processes


class Cluster(NamedTuple):
    """Which cluster, and what a task asks for: one CPU, or a part of a GPU.

    ``address``: ``auto`` joins the running cluster, ``local`` starts one on this machine, or ``ray://HOST:PORT``.
    """

    address: str = "auto"
    gpus_per_task: float = 0.0


class Place(NamedTuple):
    """What a cluster offers: how many tasks at once, on which device, and the bytes free there for a task's stack.

    ``limit``: how many processes there may be, if they are limited, however the cluster grows.
    """

    slots: int
    device: str
    room: int | None
    limit: int | None
    trainers: _Trainers


@contextmanager
def connected(cluster: Cluster, workers: int | None, most: int, warn: Callable[[str], None]) -> Iterator[Place]:
    """Be a driver of the cluster; gives what it offers. Its first processes, at most ``most``, are ready or coming.

    Raises UsageError where the extra is missing, and DeviceUnavailable where there is no such cluster, or no GPU in it.
    """
    if find_spec("ray") is None:
        raise UsageError("--executor ray: needs ray, which is not installed; pip install 'bnexp[ray]'")
    import ray

    local = cluster.address == "local"
    options: dict[str, Any] = {"num_cpus": workers or available_cores(), "include_dashboard": False} if local else {}
    _check_somebody_listens(cluster.address)
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
        raise _no_cluster(cluster.address, why) from None
    try:
        resources: Any = ray.cluster_resources
        there: dict[str, float] = resources()
        gpus = cluster.gpus_per_task
        all_gpus = there.get("GPU", 0)
        if gpus > all_gpus:
            has = f"only {all_gpus:g}" if all_gpus else "no GPU"
            raise DeviceUnavailable(f"--gpus-per-task {gpus:g}: the cluster has {has}")
        free = int(there.get("CPU", 0))
        if gpus:  # a task's part lies on one GPU
            free = int(all_gpus * (1 / gpus // 1) if gpus < 1 else all_gpus // gpus)
        if not free:
            warn("the cluster has no CPU yet; the study begins when there is one")
        slots = max(1, min(free, workers or free))
        device, room = _look_at_gpu(ray, gpus) if gpus else ("cpu", None)
        trainers = _Trainers(ray, gpus)
        for _ in range(min(slots, most)):
            trainers.hire()
        ray.wait(list(trainers.coming), num_returns=len(trainers.coming), timeout=READY)
        yield Place(slots, device, room, workers, trainers)
    finally:
        ray.shutdown()


def _check_somebody_listens(address: str) -> None:
    """Raise DeviceUnavailable where nobody does: Ray would wait for minutes, for a cluster that has ended, too."""
    known = address.removeprefix("ray://")
    if address == "auto":
        written = Path(CURRENT)
        known = os.environ.get("RAY_ADDRESS", "") or (written.read_text().strip() if written.is_file() else "")
        known = known.removeprefix("ray://")
    host, colon, port = known.rpartition(":")
    if not (colon and port.isdecimal()):
        return  # Ray knows better
    try:
        socket.create_connection((host.strip("[]"), int(port)), LISTENS_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, f"nobody answers at {known}: {error}") from None


def _no_cluster(address: str, why: str) -> DeviceUnavailable:
    hint = "start one (ray start --head), or use --address local"
    return DeviceUnavailable(f"--address {address}: no Ray cluster ({why}); {hint}")


def _look_at_gpu(ray: Any, share: float) -> tuple[str, int | None]:
    """The device that a task has, and the bytes there for its stack; raise DeviceUnavailable if torch cannot use it."""
    look = ray.remote(_device_and_room).options(num_cpus=0, num_gpus=share)
    try:
        found: tuple[str, int | None] = ray.get(look.remote(share), timeout=GPU_SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise DeviceUnavailable(f"--gpus-per-task {share:g}: so much was not free in {GPU_SECONDS:.0f} s") from None
    except ray.exceptions.RayError as error:
        raise DeviceUnavailable(f"--gpus-per-task {share:g}: torch cannot use the GPU: {_last_line(error)}") from None
    return found


def _device_and_room(share: float) -> tuple[str, int | None]:
    return device_name("cuda"), room_for_stacks("cuda", share)


def run_on_ray(stacks: Sequence[Stack], job: Job, place: Place, saved: Saved, stop: Callable[[], bool]) -> Messages:
    """Train every stack on the cluster, as ``bnexp.executors.run_stacks`` does here; once ``stop`` says so, cancel."""
    crew = _Crew(stacks, job, place, saved)
    try:
        while crew.waiting or crew.busy:
            crew.deal()
            for call in crew.answered():
                yield from crew.take(call)
            if stop():
                return
    except (ConnectionError, crew.ray.exceptions.RaySystemError) as error:
        raise DeviceLost(f"the cluster is lost ({_last_line(error)}); the same command goes on from there") from None
    finally:
        crew.close()


class _Trainer:
    """A process of the cluster: one stack at a time, a message a call."""

    def prepare(self) -> None:
        """Load what training needs, before there is a stack."""
        import bnexp.preload  # noqa: F401

        keep_memory()

    def begin(self, index: int, stack: Stack, begun: Sequence[Begun | None], job: Job, at_once: int) -> None:
        """Take up a stack."""
        self.asked, self.device = False, job.device
        self.messages = train_stack(index, stack, begun, job, self._wanted, at_once)

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


class _Trainers:
    """The processes that were asked for, and those that have no stack."""

    def __init__(self, ray: Any, gpus: float) -> None:
        self.ray = ray
        self.coming: dict[Any, Any] = {}  # answered when the trainer is ready -> trainer
        self.idle: list[Any] = []
        self.kind = ray.remote(_Trainer).options(num_cpus=0 if gpus else 1, num_gpus=gpus, max_restarts=0)

    def hire(self) -> None:
        """Ask for one more."""
        trainer = self.kind.remote()
        self.coming[trainer.prepare.remote()] = trainer

    def dismiss(self, trainer: Any) -> None:
        """Let a trainer go, whatever it does."""
        with suppress(Exception):  # it is gone, or the cluster is
            self.ray.kill(trainer)

    def dismiss_all(self) -> None:
        """Let all go that have no stack."""
        for trainer in [*self.coming.values(), *self.idle]:
            self.dismiss(trainer)
        self.coming.clear()
        self.idle.clear()


class _Crew:
    """Who trains what, and the stacks that wait."""

    def __init__(self, stacks: Sequence[Stack], job: Job, place: Place, saved: Saved) -> None:
        self.stacks, self.saved, self.place, self.trainers = stacks, saved, place, place.trainers
        self.ray = place.trainers.ray
        self.waiting = deque(range(len(stacks)))
        self.busy: dict[Any, int] = {}  # trainer -> stack
        self.expected: dict[Any, deque[Any]] = {}  # trainer -> its next answers
        self.lost = [0] * len(stacks)  # times, one after the other, without a checkpoint that is further
        self.reached = [-1] * len(stacks)  # the epoch of the last checkpoint
        self.at_once = [len(stack.shards) for stack in stacks]  # shards of a stack that are trained together
        self.stillborn = 0  # trainers, one after the other, that ended before they were ready
        self.job = self.ray.put(job)

    def deal(self) -> None:
        """Give stacks to idle trainers, and ask for more of them while stacks wait."""
        trainers, limit = self.trainers, self.place.limit
        while self.waiting and trainers.idle:
            trainer = trainers.idle.pop()
            index = self.busy[trainer] = self.waiting.popleft()
            stack = self.stacks[index]
            begins = trainer.begin.remote(index, stack, begun_of(stack, self.saved), self.job, self.at_once[index])
            # Two calls ahead: it trains on while a message is on its way.
            self.expected[trainer] = deque([begins, *(trainer.more.remote(False) for _ in range(2))])
        while len(trainers.coming) < min(len(self.waiting), AHEAD) or self._below(self.place.slots):
            full = limit is not None and len(self.busy) + len(trainers.coming) >= limit
            if full or (self.stillborn >= TRIES and (self.busy or trainers.coming)):  # those may do it all
                break
            trainers.hire()
        if not self.waiting:  # others may wait for their cores
            trainers.dismiss_all()

    def _below(self, most: int) -> bool:
        """Whether more trainers could be used, and there are fewer than that."""
        coming = len(self.trainers.coming)
        return coming < len(self.waiting) and len(self.busy) + coming < most

    def answered(self) -> list[Any]:
        """Calls that have been answered: of trainers that are ready, or have something to say."""
        calls = [*self.trainers.coming, *(calls[0] for calls in self.expected.values())]
        if not calls:
            return []
        found, _ = self.ray.wait(calls, num_returns=len(calls), timeout=0)
        if not found:
            found, _ = self.ray.wait(calls, num_returns=1, timeout=LOOK_EVERY)
        return list(found)

    def take(self, call: Any) -> Messages:
        """An answer, or that a trainer is gone."""
        if call in self.trainers.coming:
            yield from self.welcome(call)
            return
        trainer = next(one for one, calls in self.expected.items() if calls[0] == call)
        index = self.busy[trainer]
        began = len(self.expected[trainer]) > 2  # the first of its answers says no more
        try:
            message = self.ray.get(self.expected[trainer].popleft())
            if message is None and not began:
                raise RuntimeError("the task ended before its last epoch")
        except (self.ray.exceptions.RayError, RuntimeError) as error:
            self.dismiss(trainer)
            yield self.lose(index, error)
            return
        if began:
            return
        if message.arrays is not None and message.epoch > self.reached[index]:
            self.reached[index], self.lost[index] = message.epoch, 0
        if message.done:
            del self.busy[trainer], self.expected[trainer]
            self.trainers.idle.append(trainer)
            yield message
        else:
            asked = yield message
            self.expected[trainer].append(trainer.more.remote(bool(asked)))

    def welcome(self, call: Any) -> Messages:
        """A trainer that is ready; where one after the other never is, the rest of the study is given up."""
        trainer = self.trainers.coming.pop(call)
        try:
            self.ray.get(call)
        except self.ray.exceptions.RayError as error:
            self.trainers.dismiss(trainer)
            self.stillborn += 1
            others = self.busy or self.trainers.coming or self.trainers.idle
            if self.stillborn >= TRIES and not others:
                while self.waiting:
                    index = self.waiting.popleft()
                    yield given_up(index, self.stacks[index], f"no process could be started: {_last_line(error)}")
        else:
            self.stillborn = 0
            self.trainers.idle.append(trainer)

    def lose(self, index: int, error: Exception) -> Message:
        """What becomes of a stack whose trainer is gone."""
        stack = self.stacks[index]
        if isinstance(error, self.ray.exceptions.OutOfMemoryError) and self.at_once[index] > 1:
            self.at_once[index] = -(-self.at_once[index] // 2)
        else:
            self.lost[index] += 1
        if self.lost[index] < TRIES:
            self.waiting.appendleft(index)
            return go_on_again(index, stack)
        return given_up(index, stack, f"its task was lost {TRIES} times: {_last_line(error)}")

    def dismiss(self, trainer: Any) -> None:
        """Let a busy trainer go."""
        del self.busy[trainer], self.expected[trainer]
        self.trainers.dismiss(trainer)

    def close(self) -> None:
        """End all of them."""
        for trainer in list(self.busy):
            self.dismiss(trainer)
        self.trainers.dismiss_all()


def _last_line(error: Exception) -> str:
    return textwrap.shorten((str(error).strip() or type(error).__name__).splitlines()[-1], 200, placeholder=" …")
