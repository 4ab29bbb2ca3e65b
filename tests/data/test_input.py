import keras
import numpy as np

from moa_tf.data.input import training_batches
from moa_tf.training.inference import Inference

FEATURES = {"features": np.arange(20, dtype="float32").reshape(10, 2)}
TARGETS = np.arange(10, dtype="float32")[:, None]


def order(rows, epochs, seed=3, batch_size=3):
    batches = training_batches(FEATURES, TARGETS, np.array(rows), batch_size, epochs, seed)
    result = []
    for features, targets in batches:
        np.testing.assert_array_equal(features["features"][:, 0], 2 * targets[:, 0])
        result.append(targets.numpy()[:, 0].astype(int).tolist())
    return result


def test_an_epoch_has_each_row_once_and_no_other():
    batches = order([1, 3, 5, 7, 8, 9], range(1))
    assert sorted(row for batch in batches for row in batch) == [1, 3, 5, 7, 8, 9]


def test_the_incomplete_batch_is_left_out():
    assert [len(batch) for batch in order(range(8), range(2))] == [3, 3, 3, 3]


def test_a_resumed_epoch_has_the_order_of_the_uninterrupted_one():
    whole = order(range(9), range(4))
    assert order(range(9), range(2, 4)) == whole[6:]
    assert whole[:3] != whole[3:6]


def test_the_order_depends_on_the_seed():
    assert order(range(9), range(1), seed=1) != order(range(9), range(1), seed=2)


def test_inference_is_the_model_on_all_rows_whatever_the_batch():
    inputs = {"features": keras.Input((2,), name="features")}
    model = keras.Model(inputs, keras.layers.Dropout(0.5)(keras.ops.square(inputs["features"])))
    result = Inference(model)(FEATURES, batch_size=4)
    np.testing.assert_array_equal(result, FEATURES["features"] ** 2)
