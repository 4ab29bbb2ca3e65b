import keras
import numpy as np
import pytest

from moa_tf.errors import InputError
from moa_tf.preprocessing import LogDose, MedianImputation, OneHot


def test_medians_by_hand_and_what_is_dropped():
    nan = np.nan
    rows = np.float32([[1, nan, 5, nan], [2, nan, nan, nan], [9, 3, nan, nan], [nan, 4, 7, nan]])
    layer = MedianImputation(max_missing=0.5)
    layer.adapt(rows)
    assert layer.dropped.tolist() == [3]
    out = np.array(layer(np.float32([[nan, nan, nan, nan], [7, 8, 9, 10]])))
    np.testing.assert_array_equal(out, [[2, 3.5, 6, 0], [7, 8, 9, 0]])
    strict = MedianImputation(max_missing=0.25)
    strict.adapt(rows)
    assert strict.dropped.tolist() == [1, 2, 3]


def test_it_is_saved_with_its_medians(tmp_path):
    layer = MedianImputation()
    layer.adapt(np.float32([[1, np.nan], [3, np.nan]]))
    inputs = keras.Input((2,))
    keras.Model(inputs, layer(inputs)).save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(np.float32([[np.nan, 5]])), [[2, 0]])


def test_before_adapt_and_with_infinities():
    with pytest.raises(InputError, match="before adapt"):
        MedianImputation()(np.zeros((1, 2), "float32"))
    with pytest.raises(InputError, match="not finite"):
        MedianImputation().adapt(np.float32([[np.inf], [1]]))
    with pytest.raises(InputError, match="max_missing"):
        MedianImputation(max_missing=2)


def test_the_logarithm_of_doses_by_hand():
    layer = LogDose()
    layer.adapt(np.float32([1, 100, np.nan]))  # logarithms 0 and 2: mean 1, deviation 1
    np.testing.assert_allclose(layer(np.float32([0.1, 10, 1000, np.nan])), [[-2], [0], [2], [0]], atol=1e-6)
    single = LogDose()
    single.adapt(np.float32([5, 5]))
    np.testing.assert_allclose(single(np.float32([5, 50])), [[0], [1]], atol=1e-6)
    copy = LogDose.from_config(layer.get_config())
    np.testing.assert_allclose(copy(np.float32([1000])), [[2]], atol=1e-6)


def test_one_hot_of_what_was_seen():
    layer = OneHot(3)
    layer.adapt(np.array([0, 2, 2, -1]))
    np.testing.assert_array_equal(
        layer(np.int32([0, 1, 2, -1])), [[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    )
    np.testing.assert_array_equal(OneHot(2)(np.int32([1, 0])), [[0, 1], [1, 0]])
