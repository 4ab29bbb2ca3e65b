import dataclasses

import keras
import numpy as np
import pytest

from moa_tf.config import Recipe, override
from moa_tf.data.schema import CONTROL
from moa_tf.data.simulate import simulate
from moa_tf.evaluation.metrics import evaluate, mean_log_loss
from moa_tf.models.base import get_family
from moa_tf.training.checkpoint import load_checkpoint, save_checkpoint
from moa_tf.training.fold import make_fold
from moa_tf.training.follow import Course, Follow, probabilities, repeat
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


def test_a_kill_after_the_last_epochs_checkpoint(data, config, placement, tmp_path):
    """The checkpoint of the last epoch lies there, and the network is not sealed: nothing is left to train."""
    network, history = train(data, config, placement)
    path = tmp_path / "checkpoint.npz"
    train(data, config, placement, path)
    reporter = StopAfter(100)
    resumed, again = train(data, config, placement, path, reporter)
    assert reporter.steps == 0
    assert again == history
    # The moving average's weights, or the best epoch's; not the last ones.
    for a, b in zip(network.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_flipped_byte_raises_anything_but_damage(data, config, placement, tmp_path):
    path = tmp_path / "checkpoint.npz"
    network, _ = train(data, config, placement, path)
    network.compile("adam", "mse")
    save_checkpoint(path, network, {"history": []}, [])
    before = [np.array(weight) for weight in network.weights]
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    # The archive's own structure lies at its members' ends and at its own.
    places = np.r_[rng.integers(0, len(whole), 200), np.arange(len(whole) - 900, len(whole)), np.arange(200)]
    damaged = 0
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            load_checkpoint(path, network)
        except ValueError:
            damaged += 1
        # Whether it was noticed or made no difference, the weights are what they were.
        for a, b in zip(before, network.weights, strict=True):
            np.testing.assert_array_equal(a, b)
    assert damaged > len(places) / 2


def test_pretraining_is_not_repeated_where_a_checkpoint_is(data, config, placement, tmp_path):
    path, calls = tmp_path / "checkpoint.npz", []

    def go(reporter=None):
        return train_network(
            get_family("mlp"), data, config, 3, placement, checkpoint=path, checkpoint_seconds=0,
            reporter=reporter, initialise=calls.append,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        go(StopAfter(2))
    assert len(calls) == 1
    go()
    assert len(calls) == 1


def test_controls_that_are_held_out_steer_nothing(placement):
    """Many controls and few treated rows: what is judged is what the table gives for treated rows."""
    dataset = simulate(200, seed=1, genes=20, cells=0)
    signatures = dataset.signatures
    control = np.arange(200) % 4 != 0
    cp_type = np.where(control, CONTROL, 0).astype(np.int32)
    targets = np.where(control[:, None], 0, dataset.targets).astype(np.float32)
    signatures = dataclasses.replace(signatures, cp_type=cp_type)
    dataset = dataclasses.replace(dataset, signatures=signatures, targets=targets)
    fold = make_fold(0, dataset, np.arange(200) >= 100, train_on_controls=False)
    assert (len(fold.train), len(fold.held_out), len(fold.judged)) == (25, 100, 25)
    hyperparameters = override(get_family("mlp").presets["small"], ["hidden=8", "epochs=30", "batch_size=8",
                               "early_stopping=4", "learning_rate=0.01", "schedule=constant"])  # fmt: skip
    preprocessing = get_family("mlp").fit_preprocessing(
        dataset.signatures.take(fold.train), hyperparameters.architecture, 0
    )
    data = NetworkData(preprocessing, Inference(preprocessing)(signatures.inputs()), targets, fold)
    network, history = train(data, hyperparameters, placement)
    predicted = probabilities(Inference(network), data.at(fold.held_out))
    figures = evaluate(targets[fold.held_out], predicted, control[fold.held_out])
    losses = [epoch["held_out_log_loss"] for epoch in history["epochs"]]
    assert min(losses) == pytest.approx(figures["log_loss_treated"], rel=1e-6)
    assert min(losses) != pytest.approx(figures["log_loss_all"], rel=1e-2)


def test_the_course_of_the_folds_by_hand():
    def history(best, *rates):
        return {"best_epoch": best, "planned": 9, "epochs": [{"learning_rate": rate} for rate in rates]}

    histories = [history(0, 8, 8, 4), history(2, 8, 4, 4, 2, 2), history(1, 8, 8, 2, 2)]
    stopping = Recipe(epochs=9, schedule="plateau", early_stopping=2)
    # The middle one of 1, 3 and 2 epochs; the middle rates of those that came so far.
    assert repeat(stopping, histories) == Course(2 / 9, (8, 8, 4, 2, 2))
    assert repeat(stopping, [histories[1]]) == Course(3 / 9, (8, 4, 4, 2, 2))
    assert repeat(Recipe(epochs=9, early_stopping=2), histories) == Course(2 / 9)
    assert repeat(Recipe(epochs=9), histories) == Course(1.0)
    assert repeat(Recipe(epochs=3, schedule="plateau"), histories) == Course(1.0, (8, 8, 4, 2, 2))
    # Of as many epochs, as many are trained; of more, as large a share.
    assert [Course(3 / 9).epochs(9), Course(3 / 9).epochs(30), Course(1 / 9).epochs(3)] == [3, 10, 1]
    # An even number: the upper one of the middle two.
    assert repeat(Recipe(epochs=9, early_stopping=2), histories[:2]) == Course(3 / 9)


def test_a_refit_repeats_the_folds_course(data, config, placement):
    """It stops where they did within a schedule that would go on, and nothing else moves its rate."""
    _, history = train(data, config, placement)
    course = Course(3 / 6, (0.02, 0.01, 0.004) if config.recipe.schedule == "plateau" else None)
    nothing = dataclasses.replace(data.fold, held_out=np.empty(0, int), judged=np.empty(0, int))
    everything = dataclasses.replace(data, fold=nothing)
    _, again = train(everything, config, placement, course=course)
    rates = [epoch["learning_rate"] for epoch in again["epochs"]]
    expected = course.learning_rates or [epoch["learning_rate"] for epoch in history["epochs"][:3]]
    assert rates == pytest.approx(list(expected))
    assert config.recipe.schedule == "plateau" or rates[2] > 0.2 * max(rates)
    assert "held_out_log_loss" not in again["epochs"][0]


def test_a_refit_does_not_stop_early(data, hyperparameters, placement):
    config = override(
        hyperparameters, ["epochs=12", "early_stopping=1", "learning_rate=1", "schedule=constant"]
    )
    nothing = dataclasses.replace(data.fold, held_out=np.empty(0, int), judged=np.empty(0, int))
    _, history = train(dataclasses.replace(data, fold=nothing), config, placement, course=Course())
    losses = [epoch["loss"] for epoch in history["epochs"]]
    assert len(losses) == 12
    # The training loss rises somewhere, where early stopping on it would have ended.
    assert np.any(np.diff(losses) > 0)


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


def test_an_early_stop_that_a_checkpoint_holds_is_not_gone_beyond(data, hyperparameters, placement, tmp_path):
    config = override(
        hyperparameters, ["epochs=40", "early_stopping=3", "learning_rate=0.05", "schedule=constant"]
    )
    path, reporter = tmp_path / "checkpoint.npz", StopAfter(100)
    network, history = train(data, config, placement, path)
    assert len(history["epochs"]) < 40
    resumed, again = train(data, config, placement, path, reporter)
    assert reporter.steps == 0
    assert again == history
    for a, b in zip(network.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_patience_by_hand(data, hyperparameters):
    recipe = override(
        hyperparameters,
        [
            "schedule=plateau",
            "plateau_patience=2",
            "plateau_factor=0.5",
            "early_stopping=4",
            "learning_rate=8",
        ],
    ).recipe
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(8.0), "mse")
    follow = Follow(model, data, recipe, None, None, 60, Reporter(), True)
    follow.set_model(model)
    rates, over = [], []
    for epoch, loss in enumerate([3, 2, 2.5, 1, 1.5, 1.6, 1.7, 0.5, 0.9, 0.8, 0.7, 0.6]):
        follow._judge(epoch, {"loss": 0.0, "held_out_log_loss": loss})
        rates.append(float(np.asarray(model.optimizer.learning_rate)))
        over.append(follow.is_over())
    # An epoch that is better than all before starts the count anew; so does a reduction.
    assert rates == [8, 8, 8, 8, 8, 4, 4, 4, 4, 2, 2, 1]
    assert over == [False] * 11 + [True]
    assert follow.progress.best_epoch == 7


def test_plateau_divides_the_learning_rate(data, hyperparameters, placement):
    config = override(
        hyperparameters,
        ["epochs=24", "schedule=plateau", "plateau_patience=2", "plateau_factor=0.5", "learning_rate=0.05"],
    )
    _, history = train(data, config, placement)
    rates = [epoch["learning_rate"] for epoch in history["epochs"]]
    losses = [epoch["held_out_log_loss"] for epoch in history["epochs"]]
    # By hand: halved after every second epoch in a row that is no better than the best before.
    rate, best, waited, expected = 0.05, np.inf, 0, []
    for loss in losses:
        expected.append(rate)
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited == 2:
            rate, waited = rate / 2, 0
    assert rates == pytest.approx(expected)
    assert len(set(expected)) >= 3
