"""Seeds of a layer's parts."""

from __future__ import annotations

import keras


def part_seed(seed: int | None, offset: int) -> int | None:
    """The seed of one of a layer's parts; None where the layer has none.

    Args:
        seed: the layer's.
        offset: tells its parts apart, below 10,000.
    """
    if seed is None:
        return None
    seed = seed * 10_007 + offset
    # TensorFlow's generators take 64 bits and others 32, of which one is left for parts that count on from here.
    return seed if keras.backend.backend() == "tensorflow" else seed % 2**31
