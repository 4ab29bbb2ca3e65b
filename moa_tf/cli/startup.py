"""TensorFlow's start without its chatter."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def import_tensorflow() -> None:
    """Imports TensorFlow and lists its devices, with what its C++ side writes to stderr held back.

    On every machine without CUDA that is a dozen lines, which no log level turns off, and which would stand above
    each command's first word. They are shown after all if the import fails, or where TF_CPP_MIN_LOG_LEVEL asks for
    them.
    """
    quiet = int(os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")) >= 2
    with _held_back_stderr() if quiet else contextlib.nullcontext():
        import tensorflow as tf

        tf.config.list_physical_devices()
    if quiet:
        # It warns of retracing where several models each have a graph of their own.
        tf.get_logger().setLevel("ERROR")


@contextlib.contextmanager
def _held_back_stderr() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            file.seek(0)
            sys.stderr.write(file.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
