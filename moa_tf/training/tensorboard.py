"""Scalars for TensorBoard, a run for each network, whatever Keras runs on."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Any

from moa_tf.atomic import writing
from moa_tf.training.reporter import Reporter

SCALARS = {
    "loss": "loss/training",
    "held_out_log_loss": "loss/validation",
    "learning_rate": "learning_rate",
}
"""What an epoch's figures are called there."""


class TensorBoard(Reporter):
    """Writes each epoch's training loss, validation loss and learning rate to event files.

    Every network gets a folder `[MODEL/]fold-0-seed-0` of its own: TensorBoard draws them as runs, one over the other.
    The validation loss is the log loss of the rows that are held out of the network: of an inner fold's where something
    is chosen, else the fold's own. A training that is resumed goes on in the same folder, in a further file.

    The events are written by TensorFlow's record writer, which is there on JAX too; the package `tensorboard`, which
    draws them, need not be.

    Args:
        directory: as for `tensorboard --logdir`.

    Raises:
        InputError: the disk cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.model = Path(directory), ""
        self._folder = self.directory
        self._file: Any = None

    def run(self, name: str) -> None:
        self.model = name

    def member(self, label: str, epochs: int, steps: int) -> None:
        self._close()
        self._folder = self.directory / self.model / re.sub(r"[^\w.]+", "-", label).strip("-")

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        values = {tag: figures[name] for name, tag in SCALARS.items() if name in figures}
        with writing(self._folder):
            if self._file is None:
                self._file = _open(self._folder)
            _write(self._file, step=epoch + 1, values=values)

    def metrics(self, metrics: dict[str, Any]) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


def _open(folder: Path) -> Any:
    """A new event file."""
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    # TensorBoard reads a folder's files in the order of their names.
    name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
    file = tf.io.TFRecordWriter(str(folder / name))
    _write(file, file_version="brain.Event:2")
    return file


def _write(file: Any, values: dict[str, float] | None = None, **fields: Any) -> None:
    from tensorflow.core.framework.summary_pb2 import Summary
    from tensorflow.core.util.event_pb2 import Event

    event = Event(wall_time=time.time(), **fields)
    if values is not None:
        event.summary.CopyFrom(
            Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        )
    file.write(event.SerializeToString())
    file.flush()  # a kill loses nothing that was written
