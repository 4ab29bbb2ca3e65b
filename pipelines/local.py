"""Runs a pipeline on this machine, with ML Metadata in SQLite, and says how far it is."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

import absl.logging
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration.local.local_dag_runner import LocalDagRunner

from pipelines import LOG, METADATA
from pipelines.pipeline import Settings, make_pipeline

_EVENT = re.compile(r"Component (\S+) is (running|finished)\.")


def connection(root: Path) -> metadata_store_pb2.ConnectionConfig:
    """ML Metadata of the pipelines below `root`."""
    return metadata.sqlite_metadata_connection_config(str(root / METADATA))


def run(settings: Settings, root: Path, tell: Callable[[str], None]) -> dict[str, float]:
    """Runs what is not in the cache.

    Args:
        settings: of the pipeline.
        root: its directory, for ML Metadata, and for TFX's own log.
        tell: gets a line for each component, when it starts and when it has ended.

    Returns:
        Component -> seconds.

    Raises:
        Exception: what the component raised that failed.
    """
    progress = _Progress(tell)
    # Beam, and TFX's threads, write to the root's.
    logger, base = absl.logging.get_absl_logger(), logging.getLogger()
    file = logging.FileHandler(root / LOG)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    others, level, spread, above = logger.handlers, logger.level, logger.propagate, base.handlers
    logger.handlers, logger.propagate, base.handlers = [file, progress], False, [file]
    absl.logging.set_verbosity(absl.logging.INFO)
    try:
        LocalDagRunner().run(make_pipeline(settings, connection(root)))
    finally:
        logger.handlers, logger.propagate, base.handlers = others, spread, above
        logger.setLevel(level)
        file.close()
    return progress.seconds


class _Progress(logging.Handler):
    """Hears of the components from what the runner logs; it has no other way to say it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.tell, self.seconds = tell, {}
        self.started, self.cached = 0.0, False

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.ERROR and "Input resolution error" in message:
            # The runner would leave this component out and go on with the next, past a gate too.
            raise RuntimeError(message)
        if "cached execution" in message:
            self.cached = True
        found = _EVENT.fullmatch(message)
        if not found:
            return
        name, event = found.groups()
        if event == "running":
            self.started, self.cached = time.monotonic(), False
            return
        self.seconds[name] = time.monotonic() - self.started
        self.tell(f"{name}: {'from the cache' if self.cached else f'{self.seconds[name]:.1f} s'}")
