"""Requests that wait for the same function are computed together."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moa_tf.serving.server.errors import Code, Refused

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Step:
    """A function of a batch.

    Attributes:
        compute: from named inputs, [B, …] each, to named outputs.
        rows: the most of a batch.
        of_rows: which outputs have a row for each row of the inputs; others are the same whatever the rows.
        computed: told of each batch's rows and requests.
    """

    compute: Callable[[Arrays], Arrays]
    rows: int
    of_rows: frozenset[str]
    computed: Callable[[int, int], None] = lambda rows, requests: None


@dataclass(eq=False)
class _Item:
    inputs: Arrays
    rows: int
    future: Future = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Threads that compute what waits, a step's requests together.

    A thread that is free takes what has waited longest, with all that waits for the same step behind it, as far as it
    fits into one batch. While threads are busy requests gather, so batches grow with the load, and nothing waits on an
    idle server. With `delay`, a batch that is not full waits for more, at most so long from its first request on.

    Args:
        threads: how many compute at once.
        delay: seconds.
        limit: rows that may wait; more are refused.
    """

    def __init__(self, threads: int = 2, delay: float = 0.0, limit: int = 100_000) -> None:
        self.delay, self.limit = delay, limit
        self._waiting: OrderedDict[Step, deque[_Item]] = OrderedDict()
        self._rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"compute-{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return self._rows

    def submit(self, step: Step, inputs: Arrays, rows: int) -> Future:
        """The outputs to come, a dict of arrays.

        More rows than a batch may have are computed in several, between which others have their turn. Of a future that
        is cancelled what has not begun is not computed.

        Raises:
            Refused: too much waits already, or the batcher is closed.
        """
        cuts = range(0, max(rows, 1), step.rows)
        items = [
            _Item({name: value[cut : cut + step.rows] for name, value in inputs.items()}, size)
            for cut in cuts
            for size in [min(step.rows, rows - cut)]
        ]
        with self._changed:
            if self._closed:
                raise Refused(Code.UNAVAILABLE, "the server is shutting down")
            if self._rows and self._rows + rows > self.limit:
                raise Refused(
                    Code.UNAVAILABLE,
                    f"too busy: {self._rows} rows wait already, expected at most {self.limit}",
                )
            self._waiting.setdefault(step, deque()).extend(items)
            self._rows += rows
            self._changed.notify(len(items))
        return items[0].future if len(items) == 1 else _joined([item.future for item in items], step)

    def close(self) -> None:
        """Refuses what comes, computes what waits, and ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            step, items = batch
            items = [item for item in items if item.future.set_running_or_notify_cancel()]
            if items:
                self._compute(step, items)
            del batch, step, items  # or this thread would hold a version that is gone

    def _take(self) -> tuple[Step, list[_Item]] | None:
        with self._changed:
            while True:
                now, soonest = time.monotonic(), None
                for step, queue in self._waiting.items():
                    due = queue[0].since + self.delay
                    full = self.delay == 0 or self._closed or sum(item.rows for item in queue) >= step.rows
                    if full or due <= now:
                        return step, self._take_from(step, queue)
                    soonest = due if soonest is None else min(soonest, due)
                if self._closed and not self._waiting:
                    return None
                self._changed.wait(None if soonest is None else soonest - now)

    def _take_from(self, step: Step, queue: deque[_Item]) -> list[_Item]:
        items, rows = [queue.popleft()], 0
        rows = items[0].rows
        while queue and rows + queue[0].rows <= step.rows:
            items.append(queue.popleft())
            rows += items[-1].rows
        if queue:
            self._waiting.move_to_end(step)  # other steps come first now
        else:
            del self._waiting[step]
        self._rows -= rows
        return items

    def _compute(self, step: Step, items: Sequence[_Item]) -> None:
        rows = sum(item.rows for item in items)
        try:
            outputs = step.compute(_concatenate(items))
        except BaseException as error:
            if len(items) == 1:
                items[0].future.set_exception(error)
                return
            # One request's fault is not the others'.
            for item in items:
                self._compute(step, [item])
            return
        step.computed(rows, len(items))
        start = 0
        for item in items:
            end = start + item.rows
            item.future.set_result(
                {name: value[start:end] if name in step.of_rows else value for name, value in outputs.items()}
            )
            start = end


def _concatenate(items: Sequence[_Item]) -> Arrays:
    if len(items) == 1:
        return items[0].inputs
    return {name: np.concatenate([item.inputs[name] for item in items]) for name in items[0].inputs}


def _joined(parts: Sequence[Future], step: Step) -> Future:
    """One future of them all: their outputs after one another, or the first error."""
    whole: Future = Future()
    lock, left = threading.Lock(), [len(parts)]

    def end(part: Future) -> None:
        with lock:
            left[0] -= 1
            last = left[0] == 0
        if whole.cancelled():
            for other in parts:
                other.cancel()
        if not last or not whole.set_running_or_notify_cancel():
            return
        try:
            results: list[Mapping[str, Any]] = [part.result() for part in parts]
        except BaseException as error:
            whole.set_exception(error)
            return
        whole.set_result(
            {
                name: np.concatenate([result[name] for result in results]) if name in step.of_rows else value
                for name, value in results[0].items()
            }
        )

    for part in parts:
        part.add_done_callback(end)
    return whole
