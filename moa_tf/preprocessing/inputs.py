"""The named inputs of a model."""

from __future__ import annotations

from collections.abc import Collection

import keras

from moa_tf.data.schema import SignatureSpec


def make_inputs(spec: SignatureSpec, names: Collection[str]) -> dict[str, keras.KerasTensor]:
    """Symbolic inputs for those of `names` that the panel has, in the panel's order.

    Only what a model reads may be asked for: Keras before 3.13 refuses an input that leads nowhere. `cp_type` is
    never among them: controls get probability 0 at the edge, so no network need learn what they are.
    """
    return {
        name: keras.Input(shape, dtype=dtype, name=name)
        for name, (shape, dtype) in spec.inputs.items()
        if name in names
    }
