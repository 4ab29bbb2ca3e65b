import math
import warnings

import numpy as np
import pytest

from moa_tf.data.prior import PRIOR_FLOOR, prior
from moa_tf.evaluation.metrics import evaluate, log_loss_per_target


def test_means_within_the_floor_and_its_mirror_image():
    targets = np.array([[1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    found = prior(targets)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [0.25, 1e-5, 1 - 1e-5, 0.5])
    assert PRIOR_FLOOR == 1e-5


def test_a_target_without_a_positive_to_learn_from_costs_what_the_floor_says():
    """Eight rows to fit on, four to judge by; the second target's only positive is among the latter."""
    fitted = np.zeros((8, 2), np.float32)
    fitted[:2, 0] = 1
    judged = np.array([[1, 1], [0, 0], [0, 0], [0, 0]], np.float32)
    losses = log_loss_per_target(judged, np.broadcast_to(prior(fitted), judged.shape))
    first = -(math.log(0.25) + 3 * math.log(0.75)) / 4
    # ln 1e-5 = -11.5129; means of 0 would cost ln 1e-15 = -34.5388 for the same row.
    second = (11.512925464970229 + 3 * 1.0000050000333335e-05) / 4
    np.testing.assert_allclose(losses, [first, second], rtol=1e-12)
    figures = evaluate(judged, np.full((4, 2), 0.5), np.zeros(4, bool), prior=prior(fitted))
    assert figures["prior_log_loss_treated"] == pytest.approx((first + second) / 2, rel=1e-12)


def test_no_rows_give_the_floor_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(prior(np.zeros((0, 3), np.float32)), [1e-5] * 3)


def test_many_float32_rows_lose_no_digits():
    targets = np.ones((20_000_000, 1), np.float32)  # float32 sums of ones end at 16,777,216
    targets[:2_000_000] = 0
    np.testing.assert_allclose(prior(targets), [0.9], rtol=1e-12)
