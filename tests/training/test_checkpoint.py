import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.models.base import get_family
from moa_tf.training.fold import make_fold
from moa_tf.training.follow import probabilities
from moa_tf.training.inference import Inference
from moa_tf.training.network import NetworkData, train_network
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
def data(dataset, hyperparameters):
    held_out = np.arange(len(dataset)) >= 200
    fold = make_fold(0, dataset, held_out, train_on_controls=True)
    preprocessing = get_family("mlp").fit_preprocessing(
        dataset.signatures.take(fold.train), hyperparameters.architecture, 0
    )
    features = Inference(preprocessing)(dataset.signatures.inputs())
    return NetworkData(preprocessing, features, dataset.targets, fold)


@pytest.fixture(params=["one-cycle", "plateau"])
def config(request, hyperparameters):
    own = ["early_stopping=2"] if request.param == "plateau" else ["ema=0.8"]
    return override(
        hyperparameters,
        ["epochs=6", f"schedule={request.param}", "learning_rate=0.02", "plateau_patience=1", *own],
    )


def train(data, hyperparameters, placement, path=None, reporter=None, course=None):
    return train_network(
        get_family("mlp"),
        data,
        hyperparameters,
        3,
        placement,
        course=course,
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


def test_early_stopping_goes_back_to_the_best_epoch(data, hyperparameters, placement):
    config = override(
        hyperparameters, ["epochs=40", "early_stopping=3", "learning_rate=0.05", "schedule=constant"]
    )
    network, history = train(data, config, placement)
    losses = [epoch["held_out_log_loss"] for epoch in history["epochs"]]
    assert len(losses) == history["best_epoch"] + 1 + 3 < 40
    assert min(losses) == losses[history["best_epoch"]]
    judged = data.fold.judged
    score = mean_log_loss(data.targets[judged], probabilities(Inference(network), data.at(judged)))
    assert score == pytest.approx(min(losses), rel=1e-6)


def test_plateau_divides_the_learning_rate(data, hyperparameters, placement):
    config = override(
        hyperparameters,
        ["epochs=12", "schedule=plateau", "plateau_patience=2", "plateau_factor=0.5", "learning_rate=0.05"],
    )
    _, history = train(data, config, placement)
    rates = [epoch["learning_rate"] for epoch in history["epochs"]]
    assert rates[0] == pytest.approx(0.05)
    assert set(np.round(np.divide(rates[1:], rates[:-1]), 3)) == {0.5, 1.0}
