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


def value_and_gradients(function: Callable[[list[Any]], Any], inputs: list[Any]) -> tuple[Any, list[Any]]:
    """A function's value, and the gradients of the value's sum with respect to its inputs, none to any weight.

    Args:
        function: of a list of tensors, made of Keras operations; gives one tensor.
        inputs: floating-point tensors.

    Returns:
        function(inputs), and a tensor of each input's shape, zeros for one that the function does not read.

    Raises:
        InputError: another backend than `BACKENDS`.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        # Unasked, a tape follows every variable, and keeps for each what its gradient would need.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            value = function(inputs)
        gradients = tape.gradient(value, inputs, unconnected_gradients="zero")
        return value, [ops.convert_to_tensor(gradient) for gradient in gradients]
    if backend == "jax":
        import jax

        def total(values: list[Any]) -> tuple[Any, Any]:
            value = function(values)
            return ops.sum(value), value

        gradients, value = jax.grad(total, has_aux=True)(inputs)
        return value, gradients
    raise InputError(
        f"Keras's backend {backend}: no gradients of inputs; expected KERAS_BACKEND=" + " or ".join(BACKENDS)
    )
