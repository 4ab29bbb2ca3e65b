import numpy as np
import pytest

from moa_tf.ensemble.combination import Combination
from moa_tf.ensemble.weights import Losses, fit_target_weights, fit_weights, shrink
from moa_tf.evaluation.metrics import mean_log_loss

SPACES = ("probability", "logit")


def noisy(noise, rows=600, targets=4, seed=0):
    """Labels drawn by true logits, and for each level of noise a component that sees these through it."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-1.5, 1.5, (rows, targets))
    labels = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(np.float32)
    seen = [z + rng.normal(0, scale, z.shape) for scale in noise]
    return labels, (1 / (1 + np.exp(-np.array(seen)))).astype(np.float32)


def test_constant_components_by_hand():
    """The best constant is the label mean .35: of .2 and .8 it is w₂ = (.35 − .2) / .6 by probability; by logit,
    where these are −ln 4 and ln 4, w₂ = (1 + ln(.35/.65) / ln 4) / 2."""
    labels = np.zeros((20, 1), np.float32)
    labels[:7] = 1
    predictions = np.stack([np.full_like(labels, 0.2), np.full_like(labels, 0.8)])
    np.testing.assert_allclose(fit_weights(labels, predictions, "probability"), [0.75, 0.25], atol=1e-6)
    second = (1 + np.log(0.35 / 0.65) / np.log(4)) / 2
    np.testing.assert_allclose(fit_weights(labels, predictions, "logit"), [1 - second, second], atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_no_other_weights_of_two_are_better(space):
    labels, predictions = noisy((1.0, 1.5))
    weights = fit_weights(labels, predictions, space)

    def loss(second):
        combination = Combination(np.array([1 - second, second]), space)
        return mean_log_loss(labels, combination.apply(predictions))

    grid = np.linspace(0, 1, 201)
    losses = [loss(second) for second in grid]
    assert 0 < np.argmin(losses) < 200
    assert loss(weights[1]) <= min(losses)
    assert abs(weights[1] - grid[np.argmin(losses)]) <= 0.005


@pytest.mark.parametrize("space", SPACES)
def test_slopes_are_equal_where_there_is_weight_and_higher_where_there_is_none(space, monkeypatch):
    monkeypatch.setattr("moa_tf.ensemble.weights.LEAST", 0.0)
    labels, predictions = noisy((0.5, 1.0, 4.0, 1.0, 2.0))
    odds = (predictions / (1 - predictions)) ** 0.5
    predictions = odds / (1 + odds)  # not sure enough, so that a mean with noise makes them worse
    predictions[4] = 1 - predictions[4]
    weights = fit_weights(labels, predictions, space)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    loss, slopes, _ = Losses(labels, predictions, space).of_all(np.arange(5))(weights)
    height = (slopes - slopes @ weights) / loss
    assert 1 < np.count_nonzero(weights > 1e-6) < 5
    assert np.abs(height[weights > 1e-6]).max() < 1e-5
    assert height.min() > -1e-5


@pytest.mark.parametrize("space", SPACES)
def test_slopes_and_curvature_are_those_of_the_loss(space):
    labels, predictions = noisy((0.5, 2.0), rows=50)
    moments = Losses(labels, predictions, space).of_all(np.arange(2))
    at, step = np.array([0.3, 0.7]), 1e-5
    _, slopes, curvature = moments(at)
    for place in range(2):
        ahead, behind = (moments(at + sign * step * np.eye(2)[place]) for sign in (1, -1))
        assert slopes[place] == pytest.approx((ahead[0] - behind[0]) / (2 * step), rel=1e-5)
        np.testing.assert_allclose(curvature[place], (ahead[1] - behind[1]) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_what_does_not_help_is_dropped(space):
    labels, predictions = noisy((0.5, 1.0))
    noise = np.random.default_rng(5).random((1, *labels.shape)).astype(np.float32)
    weights = fit_weights(labels, np.concatenate([predictions, noise]), space)
    assert weights[2] == 0
    np.testing.assert_allclose(weights[:2], fit_weights(labels, predictions, space), atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_components_that_are_alike_share_their_weight(space):
    labels, predictions = noisy((0.5, 1.0))
    once = fit_weights(labels, predictions, space)
    twice = fit_weights(labels, predictions[[0, 1, 0]], space)
    assert twice[0] == pytest.approx(twice[2], abs=1e-4)
    assert twice[0] + twice[2] == pytest.approx(once[0], abs=1e-4)


def test_each_target_has_its_own_optimum_over_the_components_that_are_kept():
    labels, predictions = noisy((0.5, 1.0, 2.0), targets=2)
    own = fit_target_weights(labels, predictions, "logit", np.array([0, 2]))
    np.testing.assert_array_equal(own[1], 0)
    for target in range(2):
        column = np.s_[:, target : target + 1]
        alone = fit_weights(labels[column], predictions[[0, 2]][:, :, target : target + 1], "logit")
        np.testing.assert_allclose(own[[0, 2], target], alone, atol=0.01)


def test_shrinking_by_hand():
    common, own = np.array([0.5, 0.5]), np.array([[1.0, 0.0], [0.0, 1.0]])
    shrunk = shrink(common, own, np.array([30, 0]), 10.0)
    np.testing.assert_allclose(shrunk, [[0.875, 0.5], [0.125, 0.5]])


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\[M, N, T\]"):
        fit_weights(np.zeros((3, 2)), np.zeros((1, 3, 1)), "logit")
