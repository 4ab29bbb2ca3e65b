import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.decomposition import PCA

from moa_tf.preprocessing import (
    DoseEncoding,
    MinMaxScaling,
    Norm2Scaling,
    PrincipalComponents,
    RowStatistics,
    TimeEncoding,
    VarianceThreshold,
)


@pytest.mark.parametrize("shape", [(200, 12), (9, 30)])
def test_principal_components_equal_scikit_learn(shape):
    data = np.random.default_rng(0).normal(size=shape).astype("float32") * np.arange(1, shape[1] + 1)
    layer = PrincipalComponents(5)
    layer.adapt(data)
    np.testing.assert_allclose(layer(data), PCA(5, svd_solver="full").fit_transform(data), atol=2e-3)


def test_principal_components_are_no_more_than_the_data_has():
    layer = PrincipalComponents(50)
    layer.adapt(np.random.default_rng(0).normal(size=(20, 7)).astype("float32"))
    assert layer.components == 7


def test_row_statistics():
    data = np.random.default_rng(0).gamma(2, size=(6, 40)).astype("float32")
    expected = np.stack([data.mean(1), data.std(1), stats.skew(data, 1), stats.kurtosis(data, 1)], 1)
    np.testing.assert_allclose(RowStatistics()(data), expected, atol=1e-4)


def test_row_statistics_of_a_constant_row():
    np.testing.assert_array_equal(RowStatistics()(np.full((1, 5), 2.0, "float32")), [[2, 0, 0, 0]])


def test_variance_threshold_keeps_what_varies(tmp_path):
    data = np.array([[1, 0, 5, 1], [1, 1, 5, 3]], "float32")
    layer = VarianceThreshold(0.25)
    layer.adapt(data)
    assert layer.columns == [3]  # variances 0, 0.25, 0, 1
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "m.keras")(data), [[1], [3]])


def test_variance_threshold_without_any_variance():
    with pytest.raises(ValueError, match="no feature varies"):
        VarianceThreshold().adapt(np.ones((3, 2), "float32"))


def test_time_is_one_hot_on_training_times_and_linear_between():
    layer = TimeEncoding()
    layer.adapt(np.array([72, 24, 48, 24], "float32"))
    hours = np.array([24, 48, 72, 36, 66, 6, 100], "float32")
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0.25, 0.75], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_allclose(layer(hours), expected, atol=1e-6)


def test_single_training_time():
    layer = TimeEncoding()
    layer.adapt(np.array([24.0]))
    np.testing.assert_array_equal(layer(np.array([6.0, 24.0, 48.0], "float32")), [[1], [1], [1]])


def test_dose_is_one_hot_and_unknown_is_zero():
    np.testing.assert_array_equal(DoseEncoding()(np.array([0, 1, -1], "int32")), [[1, 0], [0, 1], [0, 0]])


def row_moments(row):
    row = np.asarray(row, np.float64)
    return [row.mean(), row.std(), stats.skew(row), stats.kurtosis(row)]


@pytest.mark.parametrize("features", [1, 2, 100, 875])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e-20, 3e30])
def test_row_statistics_of_any_constant_row(value, features):
    row = np.full((1, features), value, "float32")
    result = RowStatistics()(row).numpy()[0]
    np.testing.assert_allclose(result[0], row[0, 0], rtol=1e-6)
    np.testing.assert_array_equal(result[1:], [0, 0, 0])


def test_row_statistics_of_a_nearly_constant_row():
    row = np.full((1, 100), 0.1, "float32")
    row[0, 7] = np.nextafter(np.float32(0.1), np.float32(1))
    # One of n that differs: skewness (n − 2)/√(n − 1).
    np.testing.assert_allclose(RowStatistics()(row)[0], row_moments(row[0]), rtol=1e-4)
    assert row_moments(row[0])[2] == pytest.approx(98 / np.sqrt(99))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-5, 1e5, 1e20, 1e36])
def test_row_statistics_of_any_scale(scale):
    row = np.random.default_rng(0).gamma(2, size=(1, 300)).astype("float32")
    mean, deviation, skewness, kurtosis = row_moments(row[0])
    result = RowStatistics()(row * np.float32(scale)).numpy()[0]
    np.testing.assert_allclose(result, [mean * scale, deviation * scale, skewness, kurtosis], rtol=1e-5)


def test_row_statistics_keep_a_nan_in_sight_and_their_gradient_finite():
    bad = RowStatistics()(np.array([[1, np.nan, 2], [1, 2, 4]], "float32")).numpy()
    assert np.isnan(bad[0]).all()
    assert np.isfinite(bad[1]).all()
    x = tf.constant([[0.1] * 4, [1, 2, 3, 5]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = RowStatistics()(x)
    gradient = tape.gradient(y, x)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[0], [0.25] * 4)


def test_row_statistics_in_half_precision_do_not_overflow():
    row = np.array([[300.0, -200, 100, 900]], "float32")
    result = RowStatistics(dtype="mixed_float16")(row)
    assert result.dtype == tf.float16
    np.testing.assert_allclose(result[0], row_moments(row[0]), rtol=2e-3)


def test_principal_components_keep_their_digits_far_from_0():
    rng = np.random.default_rng(0)
    mean = np.array([0, 1e4, -1e4, 3e4, 100, 0], "float32")
    far = (rng.normal(size=(200, 6)) * np.arange(1, 7)).astype("float32") + mean
    layer = PrincipalComponents(4)
    layer.adapt(far)
    expected = PCA(4, svd_solver="full").fit_transform(far.astype("float64") - mean)
    np.testing.assert_allclose(layer(far), expected, atol=5e-3)


def test_min_max_and_norm2_of_whole_numbers():
    # Whole numbers once made the scale a whole number too, 0.
    x = np.array([[0, 10], [4, 30]], "int32")
    scaling = MinMaxScaling()
    scaling.adapt(x)
    np.testing.assert_allclose(scaling(np.array([[1, 15]], "int32")), [[0.25, 0.25]])
    logarithm = Norm2Scaling()
    logarithm.adapt(x)
    np.testing.assert_allclose(
        logarithm(np.array([[4, 30]], "int32")), [[np.log(5) / np.log(41), 1]], rtol=1e-6
    )


def test_min_max_of_a_range_without_an_inverse():
    scaling = MinMaxScaling()
    scaling.adapt(np.array([[0.0, 0], [1e-40, 1]], "float32"))
    np.testing.assert_array_equal(scaling(np.array([[1e-40, 1]], "float32")), [[0, 1]])


def test_principal_components_of_few_rows_keep_the_small_ones():
    # Standard deviations from 1 to 10,000: a float32 covariance has lost the last two.
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(30, 8)))[0].T
    data = ((rng.normal(size=(9, 8)) * np.geomspace(1, 1e4, 8)) @ directions).astype("float32")
    layer = PrincipalComponents(8)
    layer.adapt(data)
    expected = PCA(8, svd_solver="full").fit_transform(data.astype("float64"))
    np.testing.assert_allclose(np.abs(layer(data)), np.abs(expected), atol=2e-2)


def test_norm2_of_nothing_but_zeros():
    # Every logarithm is 0, and so is the largest.
    scaling = Norm2Scaling()
    scaling.adapt(np.zeros((3, 2)))
    np.testing.assert_array_equal(scaling(np.array([[0.0, -4.0]], "float32")), [[0, 0]])
