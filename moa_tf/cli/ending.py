"""Told to end (SIGTERM, SIGHUP), a command clears up first."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 20.0
"""Seconds after which the process ends without: it may wait in TensorFlow for a worker that is gone."""

AGAIN = 1.0
"""Seconds in which a second signal is the same wish: `timeout` sends it to the process and to its group."""


class Ended(SystemExit):
    """Unwinds the stack, so that every `finally` removes what is half written.

    Attributes:
        signal: its name.
        code: the exit status, 128 + its number, as a shell has it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Has SIGTERM and SIGHUP raise `Ended` in the block.

    A signal that is ignored stays so, as `nohup` wants it. In another thread than the main one nothing changes.
    """
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    numbers = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread() or not numbers:
        yield
        return
    told = -AGAIN

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if time.monotonic() - told >= AGAIN:
            told = time.monotonic()
            raise Ended(number)

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=_end_late, args=(reading, set(numbers)), daemon=True).start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        for number in numbers:
            signal.signal(number, end)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        os.close(writing)  # which ends the thread


def _end_late(reading: int, numbers: set[int]) -> None:
    """Python runs a handler between two of its own steps only, and C++ may not come back to them."""
    with open(reading, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if number[0] in numbers:
                time.sleep(GRACE)
                os._exit(128 + number[0])
