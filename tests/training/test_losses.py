import keras
import numpy as np
import pytest

from moa_tf.training.losses import SmoothedBinaryCrossentropy, log_positive_weights

LOGITS = np.array([[0.0, 2.0], [-3.0, 60.0]], "float32")
LABELS = np.array([[1.0, 0.0], [0.0, 1.0]], "float32")


def test_hand_computed_without_smoothing():
    # softplus(0), softplus(2), softplus(-3), softplus(-60)
    expected = np.mean([np.log(2), np.log1p(np.exp(2)), np.log1p(np.exp(-3)), 0.0])
    assert float(SmoothedBinaryCrossentropy()(LABELS, LOGITS)) == pytest.approx(expected, abs=1e-6)


def test_smoothing_equals_keras():
    logits = np.clip(LOGITS, -10, 10)
    keras_loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)
    ours = SmoothedBinaryCrossentropy(0.1)
    assert float(ours(LABELS, logits)) == pytest.approx(float(keras_loss(LABELS, logits)), abs=1e-6)


def test_positive_weights_weigh_positives_alone():
    loss = SmoothedBinaryCrossentropy(positive_weights=[3.0, 5.0])
    expected = np.mean([3 * np.log(2), np.log1p(np.exp(2)), np.log1p(np.exp(-3)), 0.0])
    assert float(loss(LABELS, LOGITS)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weights", [None, [3.0, 5.0]])
def test_members_losses_are_averaged(weights):
    loss = SmoothedBinaryCrossentropy(0.1, weights)
    members = np.stack([LOGITS, LOGITS - 1, 2 * LOGITS], axis=1)
    expected = np.mean([float(loss(LABELS, members[:, i])) for i in range(3)])
    assert float(loss(LABELS, members)) == pytest.approx(expected, rel=1e-6)


def test_log_positive_weights():
    np.testing.assert_allclose(log_positive_weights(np.array([0, 900])), [1, np.log(100) / np.log(1000)])


def test_config_round_trip():
    loss = SmoothedBinaryCrossentropy(0.01, [1.0, 2.0])
    again = SmoothedBinaryCrossentropy.from_config(loss.get_config())
    assert float(again(LABELS, LOGITS)) == float(loss(LABELS, LOGITS))
