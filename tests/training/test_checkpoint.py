import dataclasses

import numpy as np
import pytest

from moa_tf.data.input import Inference
from moa_tf.models.base import get_family
from moa_tf.training.fold import FoldData, train_network
from moa_tf.training.reporter import Reporter


class StopAfter(Reporter):
    """Ends the training as a kill would, after an epoch's checkpoint."""

    def __init__(self, epochs):
        self.epochs, self.steps, self.lines = epochs, 0, []

    def member(self, label, epochs, steps):
        self.limit = self.epochs * steps

    def batch(self):
        if self.steps == self.limit + 1:
            raise KeyboardInterrupt
        self.steps += 1

    def message(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def data(dataset, settings):
    rows = np.arange(len(dataset))
    preprocessing = get_family("mlp").fit_preprocessing(
        dataset.signatures.take(rows[:200]), settings.config, 0
    )
    features = Inference(preprocessing)(dataset.signatures.inputs())
    return FoldData(preprocessing, features, dataset.targets, rows[:200], rows[200:])


@pytest.fixture(params=["one-cycle", "plateau"])
def config(request, settings):
    return dataclasses.replace(
        settings.config,
        epochs=6,
        schedule=request.param,
        learning_rate=0.02,
        plateau_patience=1,
        early_stopping=2 if request.param == "plateau" else 0,
        ema=0.0 if request.param == "plateau" else 0.8,
    )


def train(data, config, placement, path=None, reporter=None):
    return train_network(
        get_family("mlp"),
        data,
        config,
        3,
        placement,
        checkpoint=path,
        checkpoint_seconds=0,
        reporter=reporter,
    )


def test_going_on_from_a_checkpoint_gives_the_uninterrupted_weights(data, config, placement, tmp_path):
    network, history = train(data, config, placement)
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(KeyboardInterrupt):
        train(data, config, placement, path, StopAfter(2))
    resumed, again = train(data, config, placement, path)
    assert again == history
    for a, b in zip(network.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_checkpoint_is_named_and_the_fold_trained_from_its_start(data, config, placement, tmp_path):
    network, history = train(data, config, placement)
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(KeyboardInterrupt):
        train(data, config, placement, path, StopAfter(2))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    reporter = StopAfter(100)
    resumed, again = train(data, config, placement, path, reporter)
    assert str(path) in reporter.lines[0]
    assert "damaged" in reporter.lines[0]
    assert again == history
    np.testing.assert_array_equal(network.weights[0], resumed.weights[0])


def test_early_stopping_goes_back_to_the_best_epoch(data, settings, placement):
    config = dataclasses.replace(
        settings.config, epochs=40, early_stopping=3, learning_rate=0.05, schedule="constant"
    )
    network, history = train(data, config, placement)
    losses = [epoch["held_out_log_loss"] for epoch in history["epochs"]]
    assert len(losses) == history["best_epoch"] + 1 + 3 < 40
    assert min(losses) == losses[history["best_epoch"]]
    from moa_tf.evaluation.metrics import mean_log_loss
    from moa_tf.training.fold import probabilities

    held_out = {name: values[data.held_out] for name, values in data.features.items()}
    score = mean_log_loss(data.targets[data.held_out], probabilities(Inference(network), held_out))
    assert score == pytest.approx(min(losses), rel=1e-6)


def test_plateau_divides_the_learning_rate(data, settings, placement):
    config = dataclasses.replace(
        settings.config,
        epochs=12,
        schedule="plateau",
        plateau_patience=2,
        plateau_factor=0.5,
        learning_rate=0.05,
    )
    _, history = train(data, config, placement)
    rates = [epoch["learning_rate"] for epoch in history["epochs"]]
    assert rates[0] == pytest.approx(0.05)
    assert set(np.round(np.divide(rates[1:], rates[:-1]), 3)) == {0.5, 1.0}
