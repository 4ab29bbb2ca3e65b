import keras
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.preprocessing import QuantileTransformer

from moa_tf.preprocessing import QuantileToNormal
from moa_tf.preprocessing.quantile import normal_quantile


def table(rows: int, seed: int = 0) -> np.ndarray:
    """Rounded and clipped as the competition's, heavy tails, with many ties at both ends."""
    rng = np.random.default_rng(seed)
    scale = np.array([0.3, 1, 3, 20])
    return np.clip(np.round(rng.standard_t(3, (rows, 4)) * scale, 2), -10, 10).astype("float32")


def reference(data: np.ndarray, n_quantiles: int) -> np.ndarray:
    return QuantileTransformer(
        n_quantiles=n_quantiles, output_distribution="normal", subsample=None
    ).fit_transform(data)


@pytest.mark.parametrize(
    ("rows", "n_quantiles"), [(741, 741), (3000, 1000), (3000, 100), (50, 10), (20000, 1000)]
)
def test_equals_scikit_learn_on_training_rows(rows, n_quantiles):
    data = table(rows)
    layer = QuantileToNormal(n_quantiles)
    layer.adapt(data)
    np.testing.assert_allclose(layer(data), reference(data, n_quantiles), atol=1e-4)


def test_float32_ties_at_the_ends_keep_their_middle_as_in_scikit_learn():
    data = table(2000)[:, 3:]
    assert np.mean(data == 10) > 0.1
    layer = QuantileToNormal(100)
    layer.adapt(data)
    result = np.asarray(layer(data))
    np.testing.assert_allclose(result, reference(data, 100), atol=1e-4)
    assert result.max() < 2


def test_hand_computed():
    layer = QuantileToNormal(3)
    layer.adapt(np.array([[0.0], [1.0], [4.0]], "float32"))
    result = np.asarray(layer(np.array([[0.5], [1.0], [2.5], [4.0]], "float32")))[:, 0]
    # Ranks 1/4, 1/2, 3/4, and the end, which is kept 1e-7 from 1.
    np.testing.assert_allclose(result, [norm.ppf(0.25), 0, norm.ppf(0.75), -norm.ppf(1e-7)], atol=1e-5)


def test_monotone_and_finite_far_outside_the_training_range():
    layer = QuantileToNormal(100)
    data = table(500)[:, :1]
    layer.adapt(data)
    grid = np.sort(np.concatenate([np.linspace(-30, 30, 20001), data[:, 0], [-3e38, 3e38, -np.inf, np.inf]]))
    result = np.asarray(layer(grid[:, None].astype("float32")))[:, 0]
    assert np.isfinite(result).all()
    assert (np.diff(result) >= 0).all()
    assert result[0] == -result[-1] == pytest.approx(norm.ppf(1e-7), abs=1e-3)


def test_constant_feature_is_finite():
    layer = QuantileToNormal()
    layer.adapt(np.full((20, 1), 3.0, "float32"))
    assert np.isfinite(np.asarray(layer(np.array([[2.0], [3.0], [4.0]], "float32")))).all()


def test_normal_quantile_to_seven_digits():
    p = np.concatenate([np.geomspace(1e-7, 0.5, 500), [0.075, 0.0749]]).astype("float32")
    np.testing.assert_allclose(normal_quantile(p), norm.ppf(p.astype("float64")), atol=2e-6)


def test_travels_in_a_keras_file(tmp_path):
    data = table(300)
    layer = QuantileToNormal(50)
    layer.adapt(data)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(data), again(data))


def test_refuses_one_row():
    with pytest.raises(ValueError, match="at least 2"):
        QuantileToNormal().adapt(np.zeros((1, 3), "float32"))


def between(data: np.ndarray, new: np.ndarray, n_quantiles: int) -> tuple[np.ndarray, np.ndarray]:
    """Ours and scikit-learn's for values that were not trained on, float32 both."""
    layer = QuantileToNormal(n_quantiles)
    layer.adapt(data)
    theirs = QuantileTransformer(n_quantiles=n_quantiles, output_distribution="normal", subsample=None).fit(
        data
    )
    return np.asarray(layer(new)), theirs.transform(new)


@pytest.mark.parametrize("n_quantiles", [2, 1000])
def test_the_upper_tail_has_float32s_steps_as_in_scikit_learn_and_the_lower_its_digits(n_quantiles):
    # Uniform on [-1, 0] and on [0, 1]: the probability is the distance from the end, which float32 has in full.
    distance = np.geomspace(2e-7, 0.9 / (n_quantiles - 1), 400).astype("float32")
    grid = np.linspace(0, 1, 1000, dtype="float32")[:, None]
    upper, theirs = between(grid - 1, -distance[:, None], n_quantiles)
    # Near 1 float32 knows a probability to 6e-8: that moves z = 5 by 0.04, there and here.
    stepped = 1 - (1 - distance.astype("float64")).astype("float32").astype("float64")
    assert np.abs(norm.ppf(stepped) - norm.ppf(distance)).max() > 0.01
    np.testing.assert_allclose(upper[:, 0], -norm.ppf(stepped.clip(1e-7)), atol=2e-4)
    np.testing.assert_allclose(upper, theirs, atol=2e-4)
    lower, theirs = between(grid, distance[:, None], n_quantiles)
    np.testing.assert_allclose(lower[:, 0], norm.ppf(distance.astype("float64")), atol=1e-4)
    np.testing.assert_allclose(lower, theirs, atol=1e-4)


@pytest.mark.parametrize("values", [[0.0, 0.25, 0.5], [-0.5, -0.25, 0.0], [-0.5, 0.0, 0.5]])
def test_small_ties_at_the_ends_go_to_the_ends_as_in_scikit_learn(values):
    # A third of the rows at either end; within ±1 adding 1e-7 shows in float32.
    data = np.repeat(np.array(values, "float32"), 40)[:, None]
    result, expected = between(data, np.array(values, "float32")[:, None], 100)
    np.testing.assert_allclose(result, expected, atol=1e-4)
    np.testing.assert_allclose(result[[0, 2], 0], [norm.ppf(1e-7), -norm.ppf(1e-7)], atol=1e-3)


def test_every_feature_of_a_wide_table_has_its_own_quantiles():
    data = np.random.default_rng(0).normal(size=(60, 150)).astype("float32") * np.arange(
        1, 151, dtype="float32"
    )
    layer = QuantileToNormal(50)
    layer.adapt(data)
    np.testing.assert_allclose(layer(data), reference(data, 50), atol=1e-4)
