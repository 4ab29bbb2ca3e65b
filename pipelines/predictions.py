"""What BulkInferrer predicted, as a table: `sig_id`, then a column per target."""

# No `from __future__ import annotations`: TFX reads a component's annotations as they are.
import os
from pathlib import Path

import numpy as np
from tfx.dsl.component.experimental.annotations import InputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types.standard_artifacts import InferenceResult


@component
def Predictions(
    results: InputArtifact[InferenceResult], targets: Parameter[str], out: Parameter[str]
) -> None:
    """Writes the table `out`, in the order of `sig_id`, as parts of a bulk inference have none.

    Args:
        results: of BulkInferrer.
        targets: names of the targets, a line each.
        out: a `.parquet` file.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    from moa_tf.atomic import replacing
    from moa_tf.serving.predict import table_writer

    files = fileio.glob(os.path.join(results.uri, "*.gz"))
    if not files:  # The model was not blessed.
        return
    ids, rows = [], []
    for record in tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record).predict_log
        examples = tf.make_ndarray(log.request.inputs["examples"]).reshape(-1)
        ids += [
            tf.train.Example.FromString(each).features.feature["sig_id"].bytes_list.value[0]
            for each in examples
        ]
        rows.append(tf.make_ndarray(log.response.outputs["probabilities"]).reshape(len(examples), -1))
    order = np.argsort(ids)
    names = np.array([each.decode() for each in ids], object)[order]
    with replacing(Path(out)) as temporary, table_writer(temporary, tuple(targets.splitlines())) as write:
        write(names, np.concatenate(rows)[order].astype(np.float32))
