"""TensorFlow's start: without its chatter, and the same whatever the user's environment says of Keras."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from moa_tf.errors import InputError

SETTINGS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
"""What the models are made for, by the names of `keras.json`."""

_KERAS = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")
VARIABLES = {
    "tensorflow": (*_KERAS, "TF_USE_LEGACY_KERAS"),
    "jax": (
        *_KERAS,
        "JAX_DEBUG_INFS",
        "JAX_DEBUG_NANS",
        "JAX_DEFAULT_DTYPE_BITS",
        "JAX_DEFAULT_PRNG_IMPL",
        "JAX_DISABLE_JIT",
        "JAX_ENABLE_X64",
        "JAX_NUMPY_DTYPE_PROMOTION",
        "JAX_NUMPY_RANK_PROMOTION",
        "JAX_RANDOM_SEED_OFFSET",
        "JAX_THREEFRY_PARTITIONABLE",
    ),
}
"""What Keras and its backend read from the environment, and what would train or build something else."""


def import_tensorflow(backend: str = "tensorflow") -> None:
    """Imports TensorFlow and Keras, with what TensorFlow's C++ side writes to stderr held back.

    On every machine without CUDA that is a dozen lines, which no log level turns off, and which would stand above
    each command's first word. They are shown after all if the import fails, or where TF_CPP_MIN_LOG_LEVEL asks for
    them.

    Keras runs on `backend` with `SETTINGS`, whatever `keras.json` and the environment say; what differs there
    is said on stderr. Call it before anything imports Keras.

    Args:
        backend: what Keras runs on. TensorFlow is there all the same, for its `tf.data`.

    Raises:
        InputError: Keras cannot start with the user's `keras.json`, or the backend is not installed.
    """
    if importlib.util.find_spec(backend) is None:
        raise InputError(f"--backend {backend}: is not installed, expected pip install 'moa-tf[{backend}]'")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files, and a name that it does not know is an error
    quiet = os.environ["TF_CPP_MIN_LOG_LEVEL"] not in ("0", "1")
    ignored = _set_environment(backend)
    with _held_back_stderr() if quiet else contextlib.nullcontext():
        keras = _import_keras()
        import tensorflow as tf

        tf.config.list_physical_devices()
    ignored += _set_keras(keras)
    if ignored:
        print(f"note: ignored settings of Keras: {', '.join(ignored)}", file=sys.stderr)
    if quiet:
        # It warns of retracing where several models each have a graph of their own.
        tf.get_logger().setLevel("ERROR")


def start(backend: str = "tensorflow") -> None:
    """Starts Keras for the functions of `moa_tf`, as `import_tensorflow` does, where the process has not yet.

    Raises:
        InputError: no such backend; or Keras runs already, on another one, or with settings that no model is made for.
    """
    if backend not in VARIABLES:
        raise InputError(f"backend={backend}: expected one of {', '.join(VARIABLES)}")
    keras = sys.modules.get("keras")
    if keras is None:
        import_tensorflow(backend)
        return
    running = keras.backend.backend()
    if running != backend:
        raise InputError(
            f"backend={backend}: Keras runs on {running} in this process; expected backend='{running}', or "
            f"KERAS_BACKEND={backend} before Keras is imported"
        )
    for name, value in SETTINGS.items():
        found = getattr(keras.config, name)()
        if found != value:
            raise InputError(f"Keras's {name} {found}: expected keras.config.set_{name}({value!r})")


def ask_determinism(everywhere: bool) -> None:
    """Has TensorFlow use deterministic kernels.

    Args:
        everywhere: whether all operations to come have one on a GPU; where they have not, an error would end them.
    """
    import tensorflow as tf

    if everywhere or not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


def _set_environment(backend: str) -> list[str]:
    ignored = [f"{name}={os.environ.pop(name)}" for name in VARIABLES[backend] if name in os.environ]
    # These two decide over keras.json. The second would ask for flax, which nothing here needs.
    for name, value in (("KERAS_BACKEND", backend), ("KERAS_NNX_ENABLED", "false")):
        asked = os.environ.get(name) or value
        os.environ[name] = value
        ignored += [f"{name}={asked}"] * (asked.lower() != value)
    return ignored


def _import_keras() -> Any:
    try:
        import keras
    except ImportError:
        raise
    except Exception as error:
        # It reads its file while it is imported, and raises whatever that leads to.
        folder = os.environ.get("KERAS_HOME", os.path.join(os.path.expanduser("~"), ".keras"))
        file = os.path.join(folder, "keras.json")
        if not os.path.lexists(file):
            raise
        reason = " ".join(str(error).split())
        raise InputError(
            f"{file}: Keras cannot start with it ({reason}), expected valid settings or no such file"
        ) from error
    return keras


def _set_keras(keras: Any) -> list[str]:
    """Undoes what `keras.json` has set; gives what that was."""
    config = keras.config
    found = {name: getattr(config, name)() for name in SETTINGS}
    for name, value in SETTINGS.items():
        getattr(config, f"set_{name}")(value)
    config.set_dtype_policy(SETTINGS["floatx"])
    return [f"{name} {value} in keras.json" for name, value in found.items() if value != SETTINGS[name]]


@contextlib.contextmanager
def _held_back_stderr() -> Iterator[None]:
    sys.stderr.flush()
    with contextlib.ExitStack() as after:
        try:
            file = after.enter_context(tempfile.TemporaryFile())
        except OSError:  # The disk is full: then it is told.
            yield
            return
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException as error:
            os.dup2(kept, 2)
            if not isinstance(error, (InputError, SystemExit, KeyboardInterrupt)):
                file.seek(0)
                sys.stderr.write(file.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
