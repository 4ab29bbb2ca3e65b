import keras
import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.data.simulate import simulate
from moa_tf.errors import InputError
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.models.tabm import FAMILY, PRESETS, keep_members
from moa_tf.training.fold import make_fold
from moa_tf.training.inference import Inference
from moa_tf.training.network import NetworkData, train_network
from moa_tf.training.reporter import Reporter
from moa_tf.training.strategy import make_placement

SETTINGS = ["hidden=12,8", "k=5", "batch_size=64", "epochs=4", "learning_rate=0.01"]


class StopAfter(Reporter):
    """Ends the training as a kill would, at the first step after so many epochs."""

    def __init__(self, epochs):
        self.epochs = epochs

    def epoch(self, epoch, figures):
        self.epochs -= 1

    def batch(self):
        if not self.epochs:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def data():
    dataset = simulate(300, seed=2, genes=20, cells=8)
    fold = make_fold(0, dataset, np.arange(300) >= 200, train_on_controls=False)
    preprocessing = FAMILY.fit_preprocessing(
        dataset.signatures.take(fold.train), PRESETS["small"].architecture, 0
    )
    features = Inference(preprocessing)(dataset.signatures.inputs())
    return NetworkData(preprocessing, features, dataset.targets, fold)


def train(data, *settings, **options):
    config = override(PRESETS["small"], [*SETTINGS, *settings])
    return train_network(FAMILY, data, config, 3, make_placement("none"), **options)


def predict(network, features):
    return 1 / (1 + np.exp(-Inference(network)(features).astype(float)))


@pytest.fixture(scope="module")
def trained(data):
    return train(data, "keep=2")


def test_it_learns_and_epochs_are_judged_by_what_is_kept(data, trained):
    network, history = trained
    fold = data.fold
    losses = [epoch["held_out_log_loss"] for epoch in history["epochs"]]
    predicted = predict(network, data.at(fold.judged))
    assert losses[-1] == pytest.approx(mean_log_loss(data.targets[fold.judged], predicted), rel=1e-6)
    prior = np.broadcast_to(fold.prior, predicted.shape)
    assert losses[-1] < mean_log_loss(data.targets[fold.judged], prior)


def test_going_on_from_a_checkpoint_gives_the_uninterrupted_weights(data, trained, tmp_path):
    network, history = trained
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(KeyboardInterrupt):
        train(data, "keep=2", checkpoint=path, checkpoint_seconds=0, reporter=StopAfter(2))
    resumed, again = train(data, "keep=2", checkpoint=path, checkpoint_seconds=0)
    assert again == history
    for a, b in zip(network.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_loss_is_the_mean_of_the_members_losses(data):
    """One step at a rate of nearly 0: the loss is that of the weights that the seed gives."""
    _, history = train(data, "epochs=1", "batch_size=100000", "learning_rate=1e-12", "dropout=0")
    config = override(PRESETS["small"], [*SETTINGS, "dropout=0"]).architecture
    network = FAMILY.build(data.preprocessing, config, data.fold.prior, 3)
    members = keras.Model(network.input, FAMILY.training_output(network))
    y = data.targets[data.fold.train]
    p = predict(members, data.at(data.fold.train))
    losses = [mean_log_loss(y, p[:, member]) for member in range(5)]
    assert history["epochs"][0]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    mean = predict(network, data.at(data.fold.train))
    np.testing.assert_allclose(mean, p.mean(1), rtol=1e-5)
    assert mean_log_loss(y, mean) < np.mean(losses) - 1e-4


def test_only_the_kept_members_are_left_and_predict_as_before(data, tmp_path):
    config = override(PRESETS["small"], [*SETTINGS, "keep=2"]).architecture
    network = FAMILY.build(data.preprocessing, config, data.fold.prior, 1)
    rng = np.random.default_rng(0)
    network.set_weights([weight + 0.1 * rng.normal(size=weight.shape) for weight in network.get_weights()])
    kept = keep_members(network, config)
    assert [block.r.shape[0] for block in kept.get_layer("blocks").blocks] == [2, 2]
    assert kept.get_layer("members").kernel.shape[0] == 2
    kept.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras", compile=False)
    expected = Inference(network)(data.features)
    for model in (kept, again):
        np.testing.assert_allclose(Inference(model)(data.features), expected, rtol=1e-5, atol=1e-5)
    whole = FAMILY.build(
        data.preprocessing, override(PRESETS["small"], SETTINGS).architecture, data.fold.prior, 1
    )
    assert keep_members(whole, override(PRESETS["small"], SETTINGS).architecture) is whole


def test_every_member_begins_at_the_prior_and_the_seed_decides_the_rest(data):
    config = override(PRESETS["small"], SETTINGS).architecture
    prior = np.linspace(0.01, 0.4, 7)
    one, same, other = (FAMILY.build(data.preprocessing, config, prior, seed) for seed in (1, 1, 2))
    bias = np.asarray(one.get_layer("members").bias, float)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), np.broadcast_to(prior, (5, 7)), rtol=1e-4)
    for a, b in zip(one.weights, same.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for place in (0, 1, 3):  # W, r, b
        assert not np.array_equal(one.weights[place], other.weights[place])


def test_half_precision_ends_at_the_members_logits(data):
    network, history = train(data, "epochs=1", precision="mixed_bfloat16")
    assert network.get_layer("blocks").blocks[0].compute_dtype == "bfloat16"
    assert network.output.dtype == FAMILY.training_output(network).dtype == "float32"
    assert np.isfinite(history["epochs"][0]["loss"])


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("k=0", "k=0: expected at least 1"),
        ("keep=33", "keep=33: expected from 0 (all) to k=32"),
        ("hidden=", "hidden=(): expected at least one size"),
        ("hidden=8,0", "hidden=(8, 0): expected sizes of at least 1"),
        ("dropout=1", "dropout=1.0: expected in [0, 1)"),
    ],
)
def test_bad_settings_are_one_line(assignment, line):
    with pytest.raises(InputError) as error:
        override(PRESETS["full"], [assignment])
    assert str(error.value) == line


def test_small_tables_get_the_small_preset():
    assert FAMILY.choose_preset(741) == "small"
    assert FAMILY.choose_preset(23814) == "full"
