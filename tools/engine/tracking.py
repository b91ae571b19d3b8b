"""Tells trackers, such as TensorBoard or MLflow, what happens in a run. A broken tracker never stops a training.

Each tracker works in a thread of its own, which takes events from a queue. A tracker that raises is switched off with
one line on stderr. One that hangs is left behind at the end of the run.

A fork, such as that of a loader worker, waits until no tracker handles an event. A tracker may be in the middle of an
import: the child would have the lock of that import without the thread that releases it, and would wait for ever.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, TypeAlias
from weakref import WeakSet

from tqdm import tqdm

from backbones.common.files import JsonObject
from backbones.common.registry import Registry
from backbones.errors import counted, first_line
from tools.processes import distributed

Split: TypeAlias = Literal["train", "val"]  # of the images that logged values were computed on
Status: TypeAlias = Literal["finished", "stopped", "failed"]
MOST_WAITING = 1000  # events that wait for a slow tracker; later ones are dropped and counted
END_SECONDS = 30.0  # time that all trackers together have to finish after the run
FORK_SECONDS = 20.0  # time that a fork waits for a tracker; the import of a large library takes several seconds


@dataclass(frozen=True)
class RunStart:
    """The beginning of a run, or of its continuation.

    Attributes:
        folder: the run folder.
        options: all options of the run by name.
        step: optimizer steps done so far; 0 for a new run. Values of later steps are of a run that was killed.
        measured: step of the last evaluation that the checkpoint includes.
    """

    folder: Path
    options: JsonObject
    step: int = 0
    measured: int = 0


@dataclass(frozen=True)
class RunEnd:
    """The end of a run.

    Attributes:
        status: "finished", "stopped" by a signal, or "failed".
        step: optimizer steps done.
        results: metrics of the delivered model; empty unless the run is finished.
    """

    status: Status
    step: int
    results: JsonObject


class Tracker:
    """Base class of trackers. Each method may be overridden; by default nothing happens.

    The methods are called in the main process, one after another, in a thread of the tracker. A tracker may raise.
    """

    def on_start(self, start: RunStart) -> None:
        """Called first, when the run folder exists."""

    def on_log(self, step: int, values: JsonObject) -> None:
        """Called with losses and learning rate of a step, every 20 steps."""

    def on_evaluate(self, step: int, results: JsonObject) -> None:
        """Called with the metrics of an evaluation and the number of finished epochs (`epoch`)."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Called after a checkpoint was written: `checkpoint/last.safetensors` or `checkpoint/best.safetensors`."""

    def on_end(self, end: RunEnd) -> None:
        """Called last. Files of the run folder, such as results.json and samples.png, are written by then."""


Event: TypeAlias = Callable[[Tracker], None]
TRACKERS: Registry[Callable[[], Tracker]] = Registry("tracker")
register_tracker = TRACKERS.register


class Trackers:
    """The trackers of a run. Events are sent on the main process only.

    Args:
        trackers: by name.
    """

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._threads = [_TrackerThread(name, each) for name, each in trackers.items()] if distributed.is_main() else []

    def start(self, start: RunStart) -> None:
        """Tell the trackers that the run begins."""
        self._send(lambda tracker: tracker.on_start(start))

    def log(self, step: int, values: Mapping[str, object], *, split: Split) -> None:
        """Tell the trackers the values of a step: of training, or of an evaluation."""
        kept = dict(values)
        if split == "train":
            self._send(lambda tracker: tracker.on_log(step, kept), may_drop=True)
        else:
            self._send(lambda tracker: tracker.on_evaluate(step, kept), may_drop=True)

    def checkpoint(self, step: int, path: Path) -> None:
        """Tell the trackers that a checkpoint was written."""
        self._send(lambda tracker: tracker.on_checkpoint(step, path), may_drop=True)

    def end(self, end: RunEnd) -> None:
        """Tell the trackers that the run ended; wait up to `END_SECONDS` until they are done."""
        self._send(lambda tracker: tracker.on_end(end))
        limit = time.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.finish(limit)
        self._threads = []

    def _send(self, event: Event, *, may_drop: bool = False) -> None:
        for thread in self._threads:
            thread.send(event, may_drop=may_drop)


class _TrackerThread:
    """One tracker with its thread and queue of events."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name, self.tracker = name, tracker
        self.events: SimpleQueue[Event | None] = SimpleQueue()
        self.dropped, self.is_broken = 0, False
        self.handling = threading.Lock()  # held while the tracker handles an event
        self.thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)

    def send(self, event: Event, *, may_drop: bool) -> None:
        """Queue an event, the first of which starts the thread. If too many wait, drop it, unless it must be kept."""
        if not self.thread.is_alive():
            self.thread.start()
            _FORKS.threads.add(self)
        if may_drop and self.events.qsize() >= MOST_WAITING:
            self.dropped += 1
        else:
            self.events.put(event)

    def finish(self, limit: float) -> None:
        """Wait for the queued events until the time `limit` of the monotonic clock, and report what was lost."""
        self.events.put(None)
        self.thread.join(max(0.0, limit - time.monotonic()))
        if self.thread.is_alive():
            _FORKS.threads.discard(self)
            waiting = counted(self.events.qsize() - 1 + self.dropped, "event")
            _warn(f"--track {self.name}: does not respond; the run ends without it, {waiting} were not taken")
        elif self.dropped and not self.is_broken:
            _warn(f"--track {self.name}: was too slow; {counted(self.dropped, 'event')} dropped")

    def _work(self) -> None:
        while (event := self.events.get()) is not None:
            if not self.is_broken:
                with self.handling:
                    self._handle(event)

    def _handle(self, event: Event) -> None:
        try:
            event(self.tracker)
        except BaseException as error:  # also SystemExit, which a library may raise
            self.is_broken = True
            warn_of_failure(self.name, error)


class _Forks:
    """Makes a fork of this process wait until no tracker handles an event."""

    def __init__(self) -> None:
        self.threads: WeakSet[_TrackerThread] = WeakSet()
        self.forking = threading.Lock()  # two threads may fork at the same time
        self.held: list[_TrackerThread] = []
        self.hanging: WeakSet[_TrackerThread] = WeakSet()  # later forks do not wait for them again
        if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
            os.register_at_fork(before=self.hold, after_in_parent=self.release, after_in_child=self.release)

    def hold(self) -> None:
        """Wait for each tracker, at most `FORK_SECONDS`, and keep it from its next event."""
        self.forking.acquire()
        for each in self.threads:
            if each.thread is threading.current_thread():
                continue
            if each.handling.acquire(timeout=0 if each in self.hanging else FORK_SECONDS):
                self.hanging.discard(each)
                self.held.append(each)
            else:
                self.hanging.add(each)

    def release(self) -> None:
        """Let the trackers go on."""
        while self.held:
            self.held.pop().handling.release()
        self.forking.release()


_FORKS = _Forks()


def warn_of_failure(name: str, error: BaseException) -> None:
    """Print that a tracker raised an error, and that the run does without it."""
    _warn(f"--track {name}: failed ({type(error).__name__}: {first_line(error)}); the run goes on without it")


def _warn(text: str) -> None:
    tqdm.write(f"warning: {text}", file=sys.stderr)
