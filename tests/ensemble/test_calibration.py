import json

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from moa_tf.atomic import to_plain
from moa_tf.ensemble.calibration import fit_calibration, frequency_groups, read_calibration
from moa_tf.ensemble.combination import Combination


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def apply(calibration, probabilities):
    return Combination(np.ones(1), "probability", calibration).apply(probabilities[None])


@pytest.fixture(scope="module")
def cells():
    """True logits of three frequencies of targets, and labels drawn by them."""
    rng = np.random.default_rng(0)
    z = rng.normal([-4, -4, -2, -2, 0, 0], 1.0, (20000, 6))
    return z, (rng.random(z.shape) < sigmoid(z)).astype(np.float32)


def test_thirds_of_the_targets_by_their_positives():
    labels = np.arange(8)[:, None] < np.array([5, 1, 7, 0, 3, 1, 2])
    assert frequency_groups(labels).tolist() == [2, 0, 2, 0, 1, 0, 1]
    assert frequency_groups(labels[:, :2]).tolist() == [1, 0]


def test_what_is_calibrated_stays(cells):
    z, labels = cells
    fitted = fit_calibration(labels, sigmoid(z), "temperature")
    np.testing.assert_allclose(fitted.temperature, 1, atol=0.05)
    np.testing.assert_allclose(fitted.bias, 0, atol=0.15)
    changed = apply(fit_calibration(labels, sigmoid(z), "isotonic"), sigmoid(z))
    assert np.abs(changed - sigmoid(z)).mean() < 0.01


def test_temperature_and_bias_of_each_third_are_found(cells):
    z, labels = cells
    temperature, bias = np.repeat([0.5, 2.0, 1.5], 2), np.repeat([0.5, -0.3, 0.0], 2)
    twisted = sigmoid((z - bias) * temperature)
    fitted = fit_calibration(labels, twisted, "temperature")
    np.testing.assert_allclose(fitted.temperature, temperature[::2], rtol=0.05)
    np.testing.assert_allclose(fitted.bias, bias[::2], atol=0.15)
    again = apply(read_calibration(json.loads(json.dumps(to_plain(fitted.to_dict())))), twisted)
    place = np.array(fitted.groups)
    logits = np.log(twisted / (1 - twisted)) / np.array(fitted.temperature)[place]
    np.testing.assert_allclose(again, sigmoid(logits + np.array(fitted.bias)[place]), atol=1e-6)


def test_few_rows_hardly_move_temperature_and_bias():
    fitted = fit_calibration(np.array([[0.0], [1.0]]), np.array([[0.2], [0.8]]), "temperature")
    assert 0.7 < fitted.temperature[0] < 1
    assert abs(fitted.bias[0]) < 1e-6


def test_isotonic_by_hand():
    """Neighbours that fall are pooled: 1, 0 become ½, ½. In between it is linear, outside it goes on level."""
    labels = np.array([[0.0], [1], [0], [1]])
    fitted = fit_calibration(labels, np.array([[0.1], [0.2], [0.4], [0.5]]), "isotonic")
    np.testing.assert_allclose(fitted.knots[0][0], [0.1, 0.2, 0.4, 0.5])
    np.testing.assert_allclose(fitted.knots[0][1], [1e-5, 0.5, 0.5, 1 - 1e-5])
    values = apply(fitted, np.array([[0.0], [0.15], [0.3], [0.45], [0.9]]))
    np.testing.assert_allclose(values[:, 0], [1e-5, 0.25, 0.5, 0.75, 1 - 1e-5], atol=1e-5)


def test_isotonic_is_scikit_learns_in_each_third(cells):
    z, labels = cells
    twisted = sigmoid(2 * z + 1)
    fitted = fit_calibration(labels[:10000], twisted[:10000], "isotonic")
    values = apply(read_calibration(json.loads(json.dumps(to_plain(fitted.to_dict())))), twisted[10000:])
    for columns in (np.s_[0:2], np.s_[2:4], np.s_[4:6]):
        peer = IsotonicRegression(y_min=1e-5, y_max=1 - 1e-5, out_of_bounds="clip")
        peer.fit(twisted[:10000, columns].ravel(), labels[:10000, columns].ravel())
        expected = peer.predict(twisted[10000:, columns].ravel())
        np.testing.assert_allclose(values[:, columns].ravel(), expected, atol=1e-9)


def test_predictions_that_are_all_alike():
    fitted = fit_calibration(np.array([[0.0], [1.0]]), np.full((2, 1), 0.3), "isotonic")
    np.testing.assert_allclose(apply(fitted, np.array([[0.1], [0.3], [1.0]])), 0.5)
