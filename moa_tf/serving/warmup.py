"""Warm-up requests, which TensorFlow Serving answers for itself before it takes a new version into service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.serving.examples import to_examples
from moa_tf.serving.predict import raw_inputs

if TYPE_CHECKING:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

FILE = Path("assets.extra", "tf_serving_warmup_requests")


def write_warmup(directory: Path, spec: SignatureSpec, names: Sequence[str]) -> None:
    """Writes one request for each signature of a SavedModel, as TFRecords of `PredictionLog`.

    Args:
        directory: of the SavedModel.
        spec: the panel that it takes.
        names: of its signatures; `classify` is asked as TensorFlow Serving's Classify does, the others by Predict.
    """
    import tensorflow as tf

    (directory / FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(directory / FILE)) as writer:
        for log in requests(spec, names):
            writer.write(log.SerializeToString())


def requests(spec: SignatureSpec, names: Sequence[str]) -> Iterator[PredictionLog]:
    """One request for each signature, of one treated row; the model's name is the server's to give."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    row = _row(spec)
    examples = to_examples(row)
    for name in names:
        log = PredictionLog()
        if name == "classify":
            request = log.classify_log.request
            request.input.example_list.examples.extend(examples)
        else:
            request = log.predict_log.request
            columns: dict[str, Any] = raw_inputs(row)
            if name == "serving_examples":
                columns = {"examples": tf.constant([example.SerializeToString() for example in examples])}
            for key, value in columns.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        request.model_spec.signature_name = name
        yield log


def _row(spec: SignatureSpec) -> Signatures:
    """One signature without any effect, treated for a day."""
    blank = {
        name: np.zeros((1, *shape), np.int32 if name in spec.codes else np.float32)
        for name, (shape, _) in spec.inputs.items()
    }
    for name, value in {"cp_time": 24.0, "cp_dose": 10.0}.items():
        if name in blank and name not in spec.codes:
            blank[name] += np.float32(value)
    return Signatures(spec, np.array(["warm-up"], object), **blank)
