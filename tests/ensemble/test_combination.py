import json

import numpy as np
import pytest

from moa_tf.atomic import to_plain
from moa_tf.ensemble.combination import BlendOptions, Combination, fit_combination, read_combination
from moa_tf.errors import InputError


def test_means_by_hand():
    """Of logits −ln 3 and ln 3 with weights ¾ and ¼ it is −½ ln 3; of probabilities .25 and .75, .375."""
    two = np.array([[[0.25]], [[0.75]]])
    weights = np.array([0.75, 0.25])
    assert Combination(weights, "probability").apply(two).item() == pytest.approx(0.375)
    assert Combination(weights, "logit").apply(two).item() == pytest.approx(1 / (1 + 3**0.5))
    own = Combination(np.array([[0.75, 0.0], [0.25, 1.0]]), "probability")
    np.testing.assert_allclose(own.apply(np.repeat(two, 2, axis=2)), [[0.375, 0.75]])


def test_probabilities_of_0_and_1_have_logits():
    values = Combination(np.array([0.5, 0.5]), "logit").apply(np.array([[[0.0]], [[1.0]]]))
    assert values.item() == pytest.approx(0.5)


def test_without_a_component_the_other_weights_sum_to_1():
    rest = Combination(np.array([[0.5, 0.2], [0.2, 0.2], [0.3, 0.6]]), "logit").of([0, 1])
    np.testing.assert_allclose(rest.weights, [[5 / 7, 0.5], [2 / 7, 0.5]])


def opposite(rows=1500):
    """Each of two components knows one of two targets."""
    rng = np.random.default_rng(0)
    z = rng.normal(-1, 2, (rows, 2))
    labels = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(np.float32)
    blind = np.broadcast_to(labels.mean(axis=0), z.shape)
    knows = 1 / (1 + np.exp(-z))
    first = np.stack([knows[:, 0], blind[:, 1]], axis=1)
    second = np.stack([blind[:, 0], knows[:, 1]], axis=1)
    return labels, np.stack([first, second]).astype(np.float32), np.arange(rows) % 3


def test_targets_have_their_own_weights_where_other_folds_say_so():
    labels, predictions, fold = opposite()
    fitted = fit_combination(labels, predictions, fold, BlendOptions(per_target=True))
    assert fitted.strength == 10
    assert fitted.weights[0, 0] > 0.9
    assert fitted.weights[1, 1] > 0.9
    np.testing.assert_allclose(fitted.weights.sum(axis=0), 1)
    again = read_combination(json.loads(json.dumps(to_plain(fitted.to_dict()), allow_nan=False)))
    np.testing.assert_array_equal(again.apply(predictions), fitted.apply(predictions))


def test_targets_share_their_weights_where_they_do_not():
    labels, predictions, fold = opposite(60)
    shuffled = np.random.default_rng(1).permutation(predictions.ravel()).reshape(predictions.shape)
    fitted = fit_combination(labels, shuffled, fold, BlendOptions(per_target=True))
    assert fitted.strength is None
    assert fitted.weights.shape == (2,)
    # With a single fold there are no others to say so.
    assert fit_combination(labels, predictions, fold * 0, BlendOptions(per_target=True)).strength is None


def test_a_choice_that_there_is_not():
    with pytest.raises(InputError, match="space=odds: expected one of logit, probability"):
        BlendOptions(space="odds")
