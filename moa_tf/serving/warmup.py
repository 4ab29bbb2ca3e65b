"""Warm-up requests, which TensorFlow Serving answers for itself before it takes a new version into service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moa_tf.data.schema import Signatures
from moa_tf.serving.predict import raw_inputs

if TYPE_CHECKING:
    import tensorflow as tf

FILE = Path("assets.extra", "tf_serving_warmup_requests")


def write_warmup(version: Path, signatures: Signatures, examples: Sequence[tf.train.Example]) -> None:
    """Writes one request for each signature of a SavedModel, as TFRecords of `PredictionLog`.

    Args:
        version: the SavedModel's directory.
        signatures: what a signature with columns is asked for.
        examples: the same rows, for a signature that takes serialised examples.

    Raises:
        ImportError: the protos of `tensorflow-serving-api` are not installed.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    columns = raw_inputs(signatures)
    columns["examples"] = tf.constant([example.SerializeToString() for example in examples])
    (version / FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version / FILE)) as writer:
        for name, signature in tf.saved_model.load(str(version)).signatures.items():
            request = predict_pb2.PredictRequest()
            # The model's name is the server's to give.
            request.model_spec.signature_name = name
            for key in signature.structured_input_signature[1]:
                request.inputs[key].CopyFrom(tf.make_tensor_proto(columns[key]))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
