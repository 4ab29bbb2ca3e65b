"""Shapes of a layer's inputs."""

from __future__ import annotations

from moa_tf.errors import InputError


def known_size(input_shape: tuple[int | None, ...], axis: int = -1) -> int:
    """The size along an axis that a layer's weights depend on.

    Raises:
        InputError: it is not known, as in `keras.Input((None,))`.
    """
    size = input_shape[axis]
    if size is None:
        raise InputError(f"inputs of shape {tuple(input_shape)}: expected a known size of axis {axis}")
    return int(size)
