"""Scalars for TensorBoard, a run for each network, whatever Keras runs on."""

from __future__ import annotations

import re
import time
from pathlib import Path

from moa_tf.atomic import writing
from moa_tf.training.reporter import Reporter

SCALARS = {
    "loss": "loss/training",
    "held_out_log_loss": "loss/validation",
    "learning_rate": "learning_rate",
}
"""What an epoch's figures are called there."""


class TensorBoard(Reporter):
    """Writes each epoch's training loss, validation loss and learning rate as event files.

    Every network gets a folder `[MODEL/]fold-0-seed-0` of its own: TensorBoard draws them as runs, one over the other.
    The validation loss is the log loss of the rows that are held out of the network: of an inner fold's where something
    is chosen, else the fold's own. A training that is resumed goes on in the same folder.

    The event files are written by TensorFlow's record writer, which is there on JAX too; the package `tensorboard`,
    which draws them, need not be.

    Args:
        directory: as for `tensorboard --logdir`.

    Raises:
        InputError: the disk cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.model = Path(directory), ""
        self._folder = self.directory

    def run(self, name: str) -> None:
        self.model = name

    def member(self, label: str, epochs: int, steps: int) -> None:
        self._folder = self.directory / self.model / re.sub(r"[^\w.]+", "-", label).strip("-")

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        import tensorflow as tf
        from tensorflow.core.framework.summary_pb2 import Summary
        from tensorflow.core.util.event_pb2 import Event

        now = time.time()
        values = [
            Summary.Value(tag=tag, simple_value=figures[name])
            for name, tag in SCALARS.items()
            if name in figures
        ]
        # A file an epoch, closed at once: there is no moment at which a kill leaves half a record.
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._folder / f"events.out.tfevents.{now:.6f}.{epoch:06d}"
            with tf.io.TFRecordWriter(str(file)) as records:
                records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
                event = Event(wall_time=now, step=epoch + 1, summary=Summary(value=values))
                records.write(event.SerializeToString())
