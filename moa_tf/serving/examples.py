"""Signatures as `tf.Example`, which the signatures `serving_examples` and `classify` take serialised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moa_tf.data.schema import Signatures

if TYPE_CHECKING:
    import tensorflow as tf


def to_examples(signatures: Signatures) -> list[tf.train.Example]:
    """An example a signature: the model's inputs under their names, words for codes."""
    import tensorflow as tf

    words = {name: (*known, "") for name, known in signatures.spec.codes.items()}
    examples = [tf.train.Example() for _ in range(len(signatures))]
    for key, values in signatures.inputs().items():
        for example, value in zip(examples, values, strict=True):
            feature = example.features.feature[key]
            if key in words:
                feature.bytes_list.value.append(words[key][value].encode())
            else:
                feature.float_list.value.extend(np.atleast_1d(value))
    return examples
