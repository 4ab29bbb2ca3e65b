import keras
import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA

from moa_tf.preprocessing import (
    DoseEncoding,
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
