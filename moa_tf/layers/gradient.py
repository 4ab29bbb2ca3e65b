"""Hand-written gradients, on the backends where they are known to be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from moa_tf.errors import InputError

BACKENDS = ("tensorflow", "jax")


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """`keras.ops.custom_gradient`; on another backend than `BACKENDS` a call is refused in one line.

    Each backend calls the gradient in its own way (PyTorch with all inputs as well), so that a function written for
    one trains on another with an error, or with a wrong gradient.

    Raises:
        InputError: by the function that is returned, on another backend.
    """
    backend = keras.backend.backend()
    if backend in BACKENDS:
        return ops.custom_gradient(function)

    def refuse(*args: Any) -> Any:
        raise InputError(
            f"Keras's backend {backend}: this layer's gradient is written by hand for others; expected KERAS_BACKEND="
            + " or ".join(BACKENDS)
        )

    return refuse
