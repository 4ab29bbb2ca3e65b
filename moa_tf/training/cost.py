"""What a part of a run took: seconds, and memory at its highest."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moa_tf.training.run import write_text

COST = "cost.json"


@contextmanager
def measured(directory: Path, writes: bool) -> Iterator[None]:
    """Leaves `cost.json` in `directory`: `seconds`, and `peak_memory`, bytes of this process at its highest.

    It is no part of what is sealed, as the same training takes another time each time. The peak is known on Linux
    alone, and holds what the process had before, TensorFlow itself for one.
    """
    _forget_peak()
    began = time.monotonic()
    yield
    if writes:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / COST, {"seconds": time.monotonic() - began, "peak_memory": _peak()})


def total(directories: Iterable[Path]) -> dict[str, Any]:
    """The seconds of all these parts together and the highest peak, over as many as it is known of; else None."""
    costs = []
    for directory in directories:
        try:
            costs.append(json.loads((directory / COST).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    peaks = [cost["peak_memory"] for cost in costs if cost["peak_memory"] is not None]
    return {
        "seconds": sum(cost["seconds"] for cost in costs) if costs else None,
        "peak_memory": max(peaks, default=None),
    }


def _forget_peak() -> None:
    # Linux sets the mark of the highest resident memory back to what is resident now.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> int | None:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) * 1024 if "VmHWM" in lines else None
