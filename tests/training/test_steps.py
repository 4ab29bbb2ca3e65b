import keras
import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.models.base import get_family
from moa_tf.training import backends
from moa_tf.training.fold import ALL, Fold
from moa_tf.training.network import NetworkData, train_network
from moa_tf.training.reporter import Reporter
from moa_tf.training.strategy import make_placement


class Counts(Reporter):
    """How many steps were told in each epoch."""

    def __init__(self):
        self.steps, self.epochs = 0, []

    def batch(self):
        self.steps += 1

    def epoch(self, epoch, figures):
        self.epochs.append((self.steps, figures["loss"]))
        self.steps = 0


@pytest.mark.parametrize("steps", [10, 7])  # calls of five, and of one
def test_steps_in_one_call_are_those_one_by_one(steps, monkeypatch):
    """The weights and the losses are the same to the last bit, under a strategy too."""
    rows = np.arange(8 * steps + 3)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(rows), 6)).astype("float32")
    targets = (rng.random((len(rows), 3)) < 0.3).astype("float32")
    fold = Fold(ALL, rows, held_out=rows[:0], judged=rows[:0], prior=targets.mean(0), unit=rows)
    inputs = keras.Input((6,), name="features")
    # Keras 3.12 makes no model of an input alone.
    same = keras.Model(inputs, {"features": keras.layers.Identity()(inputs)})
    data = NetworkData(same, {"features": features}, targets, fold)
    settings = ["hidden=16", "dropout=0.2", "epochs=3", "batch_size=8"]
    family = get_family("mlp")
    hyperparameters = override(family.presets["one-cycle"], settings)

    def train(strategy):
        counts, placement = Counts(), make_placement(strategy)
        network, _ = train_network(family, data, hyperparameters, 0, placement, reporter=counts)
        assert [told for told, _ in counts.epochs] == [steps] * 3
        return [loss for _, loss in counts.epochs], network.get_weights()

    backend = backends.current()
    assert [backend.most_at_once(make_placement(name)) for name in ("none", "mirrored")] == [5, 5]
    found = [train("none"), train("mirrored")]
    monkeypatch.setattr(backend, "most_at_once", lambda placement: 1)
    expected_losses, expected = train("none")
    for losses, weights in found:
        np.testing.assert_array_equal(losses, expected_losses)
        for ours, theirs in zip(weights, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
