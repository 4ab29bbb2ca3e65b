"""Training on JAX beside training on TensorFlow, which this process does; JAX gets processes of its own."""

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from moa_tf.config import override
from moa_tf.data.read import read_dataset
from moa_tf.data.simulate import simulate, write_simulation
from moa_tf.errors import InputError
from moa_tf.models.base import get_family
from moa_tf.training.cross_validation import Validation, cross_validate
from moa_tf.training.fold import make_fold
from moa_tf.training.inference import Inference
from moa_tf.training.members import load_members
from moa_tf.training.network import NetworkData, train_network
from moa_tf.training.network_learner import NetworkLearner
from moa_tf.training.reporter import Reporter
from moa_tf.training.run import Run
from moa_tf.training.strategy import make_placement

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed"),
]

SETTINGS = {
    "mlp": ["hidden=16", "dropout=0", "output_dropout=0"],
    "tabm": ["hidden=16", "dropout=0", "k=4", "keep=3"],
    "resnet": ["selected=10", "wide=16", "narrow=8", "dropout=0"],
    "cnn1d": ["hidden=16", "channels=4", "filters=4", "dropout=0", "skip_dropout=0", "output_dropout=0"],
    "gru": ["step_size=8", "embedding=4", "units=4", "dropout=0", "output_dropout=0"],
    "lstm": ["step_size=8", "embedding=4", "units=4", "dropout=0", "output_dropout=0"],
    "tabnet": ["virtual_batch_size=16"],
    # t-SNE lays out another map where its input differs in the last digit. Some gradients are 0 but for rounding, those
    # of shifts that the next batch normalisation takes away: Adam would make whole steps of them.
    "deepinsight": [
        "embedding=pca",
        "adam_epsilon=0.01",
        "learning_rate=1e-4",
        "image_size=32",
        "swap_rate=0",
        "drop_connect=0",
        "dropout=0",
    ],
    "linear": [],
    "connectivity": [],
}
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"}
"""XLA takes longer to compile these programs than to run them."""


def child(function, *arguments, **environment):
    """Calls a function of this file in a process whose Keras runs on JAX."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1])[sys.argv[2]](*sys.argv[3:])"
    subprocess.run(
        [sys.executable, "-c", code, __file__, function, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": "jax", **environment},
        check=True,
    )


SEED = 2**31 - 1
"""As large as a run's own are."""


class Trial:
    """A small network of a family, twenty steps long, on the same rows in the same order everywhere."""

    def __init__(self, name, settings=()):
        self.family = get_family(name)
        recipe = ["epochs=4", "batch_size=32", "decays=", "early_stopping=0", "steps=0"]
        if self.family.solve is not None:
            recipe = []
        self.hyperparameters = override(self.family.presets["small"], [*recipe, *SETTINGS[name], *settings])
        self.dataset = simulate(200, seed=1, genes=30, cells=8)
        # 160 rows to train on: their controls are among them.
        fold = make_fold(0, self.dataset, np.arange(200) >= 160, train_on_controls=True)
        architecture = self.hyperparameters.architecture
        preprocessing = self.family.fit_preprocessing(
            self.dataset.signatures.take(fold.train), architecture, SEED
        )
        self.features = Inference(preprocessing)(self.dataset.signatures.inputs())
        self.data = NetworkData(preprocessing, self.features, self.dataset.targets, fold)

    def train(self, placement=None, **options):
        placement = placement or make_placement("none")
        return train_network(self.family, self.data, self.hyperparameters, SEED, placement, **options)


def train_from(initial, name):
    """Logits and losses of a training from the weights in `initial`, which are written if they are not there."""

    def initialise(network):
        if initial.exists():
            network.set_weights(keras.saving.load_model(initial, compile=False).get_weights())
        else:
            network.save(initial)

    trial = Trial(name)
    network, history = trial.train(initialise=initialise)
    losses = [epoch["loss"] for epoch in history["epochs"]]
    return {"logits": Inference(network)(trial.features), "losses": losses}


def train_on_jax(directory, *names):
    for name in names:
        np.savez(f"{directory}/{name}.npz", **train_from(Path(directory, f"{name}.keras"), name))


def assert_both_train_alike(names, directory):
    expected = {name: train_from(directory / f"{name}.keras", name) for name in names}
    child("train_on_jax", directory, *names, **QUICK)
    for name in names:
        with np.load(directory / f"{name}.npz") as found:
            assert found["losses"][-1] < found["losses"][0]
            for key, values in expected[name].items():
                np.testing.assert_allclose(found[key], values, atol=1e-4, rtol=0, err_msg=f"{name} {key}")


@pytest.mark.parametrize("names", ["tabm resnet cnn1d", "tabnet gru lstm", "deepinsight"])
def test_families_train_as_on_tensorflow(names, tmp_path):
    assert_both_train_alike(names.split(), tmp_path)


class Stop(Reporter):
    """Ends the training within its third epoch."""

    def __init__(self):
        self.batches = 0

    def batch(self):
        self.batches += 1
        if self.batches == 12:
            raise KeyboardInterrupt


def weights(network):
    return [np.asarray(weight) for weight in network.weights]


def resume_on_jax(directory):
    """With what has a state: dropout, the moving average, the learning rate."""
    settings = ["dropout=0.3", "ema=0.9", "schedule=plateau", "plateau_patience=1", "steer=scored"]
    trial, checkpoint = Trial("mlp", settings), Path(directory, "checkpoint.npz")
    whole = trial.train()
    try:
        trial.train(checkpoint=checkpoint, checkpoint_seconds=0, reporter=Stop())
    except KeyboardInterrupt:
        resumed = trial.train(checkpoint=checkpoint, checkpoint_seconds=0)
    np.savez(f"{directory}/whole.npz", *weights(whole[0]))
    np.savez(f"{directory}/resumed.npz", *weights(resumed[0]))
    Path(directory, "losses.json").write_text(
        json.dumps([history["epochs"] for _, history in (whole, resumed)])
    )


def mirror_on_jax(directory):
    """The same training on one device and on eight; which part of a batch each of them has had."""
    import jax

    shapes = set()

    class Seen(keras.layers.Layer):
        def call(self, x):
            jax.debug.inspect_array_sharding(
                x, callback=lambda sharding: shapes.add(sharding.shard_shape(x.shape))
            )
            return x

    trial = Trial("mlp")
    seen = dataclasses.replace(trial.family, training_output=lambda network: Seen()(network.output))
    one, _ = trial.train()
    trial.family = seen
    placement = make_placement("mirrored")
    eight, _ = trial.train(placement)
    several = {len(weight.value.sharding.device_set) for weight in eight.weights}
    np.savez(f"{directory}/one.npz", *weights(one))
    np.savez(f"{directory}/eight.npz", *weights(eight))
    refused = []
    for name in ("multi-worker", "tpu"):
        try:
            make_placement(name)
        except InputError as error:
            refused.append(str(error))
    learner = NetworkLearner(trial.family, override(trial.hyperparameters, ["batch_size=36"]), placement)
    try:
        learner.check(trial.dataset, [])
    except InputError as error:
        refused.append(str(error))
    Path(directory, "seen.json").write_text(
        json.dumps([placement.replicas, sorted(several), sorted(shapes), refused])
    )


def solve_on_either(directory):
    """Out-of-fold predictions of the families that are solved, without epochs, where values are missing."""
    dataset = simulate(200, seed=1, genes=30, cells=8)
    signatures = dataset.signatures
    gaps = np.random.default_rng(0).random(signatures.genes.shape) < 0.05
    signatures = dataclasses.replace(
        signatures,
        spec=dataclasses.replace(signatures.spec, missing=True),
        genes=np.where(gaps, np.float32(np.nan), signatures.genes),
    )
    dataset = dataclasses.replace(dataset, signatures=signatures)
    for name in ("linear", "connectivity"):
        family = get_family(name)
        learner = NetworkLearner(family, family.presets["small"], make_placement("none"))
        cross_validate(dataset, learner, Validation(folds=2), Run(Path(directory, name)), only_fold=0)


def all_on_jax(directory):
    train_on_jax(directory, "mlp")
    solve_on_either(Path(directory, "jax"))
    resume_on_jax(directory)
    mirror_on_jax(directory)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """What TensorFlow here, and JAX in a process with eight devices, have made of the same."""
    directory = tmp_path_factory.mktemp("several")
    np.savez(directory / "tensorflow.npz", **train_from(directory / "mlp.keras", "mlp"))
    solve_on_either(directory / "tensorflow")
    flags = f"{QUICK['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    child("all_on_jax", directory, XLA_FLAGS=flags)
    return directory


def arrays(path):
    with np.load(path) as file:
        return [file[name] for name in file.files]


def test_twenty_steps_are_those_of_tensorflow(several):
    for found, expected in zip(arrays(several / "mlp.npz"), arrays(several / "tensorflow.npz"), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert np.ptp(expected) > 0.01  # the losses: something was learnt


@pytest.mark.parametrize("name", ["linear", "connectivity"])
def test_what_is_solved_is_that_of_tensorflow(several, name):
    found, expected = (
        pd.read_parquet(several / backend / name / "oof.parquet") for backend in ("jax", "tensorflow")
    )
    pd.testing.assert_frame_equal(found, expected, atol=1e-5, rtol=0)


def test_a_training_goes_on_within_an_epoch_of_its_end_to_the_same_bits(several):
    for found, expected in zip(arrays(several / "resumed.npz"), arrays(several / "whole.npz"), strict=True):
        np.testing.assert_array_equal(found, expected)
    whole, resumed = json.loads((several / "losses.json").read_text())
    assert resumed == whole


def test_eight_devices_split_the_batch_and_train_to_the_same_weights(several):
    replicas, copies, shapes, refused = json.loads((several / "seen.json").read_text())
    assert (replicas, copies) == (8, [8])
    assert [rows for rows, *_ in shapes] == [32 // 8]
    for found, expected in zip(arrays(several / "eight.npz"), arrays(several / "one.npz"), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    for name, line in zip(("multi-worker", "tpu"), refused, strict=False):
        assert line.startswith(
            f"--strategy {name}: is TensorFlow's; with --backend jax expected none, or mirrored"
        )
        assert "\n" not in line
    assert refused[2].startswith("batch_size=36: expected a multiple of the 8 replicas")


OTHERWISE = {"backend": "torch", "floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first"}
ARGUMENTS = ["--only-fold", 0, "--folds", 2, "--seeds", 2, "--epochs", 3, "--batch-size", 64]
ARGUMENTS += ["--set", "hidden=16", "--set", "decays=", "--set", "early_stopping=0"]


def moa_tf(*arguments, **environment):
    code = "from moa_tf.cli.main import main; main()"
    others = {
        name: value for name, value in os.environ.items() if not name.startswith(("KERAS_", "TF_", "JAX_"))
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=others | QUICK | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def strange(directory):
    """An environment that asks for everything else."""
    (directory / "keras.json").write_text(json.dumps(OTHERWISE))
    return {
        "KERAS_HOME": str(directory),
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_RANDOM_SEED_OFFSET": "7",
        "KERAS_MAX_EPOCHS": "1",
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One that was trained in a strange environment and exported; one that was killed, and resumed."""
    directory = tmp_path_factory.mktemp("runs")
    data = write_simulation(directory / "data", 300, seed=3)
    train = ["train", "--data", data, "--backend", "jax", *ARGUMENTS]
    whole = moa_tf(
        *train, "--out", directory / "whole", "--export", directory / "saved",
        **strange(directory), KERAS_BACKEND="tensorflow",
    )  # fmt: skip
    killed = moa_tf(*train, "--out", directory / "killed")
    finished = directory / "killed/fold-0/seed-0/finished.json"
    while not finished.exists() and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, killed.stderr.read()
    assert not (directory / "killed/oof.parquet").exists()
    resumed = moa_tf(*train, "--out", directory / "killed", "--resume")
    told = [process.communicate()[1] for process in (whole, resumed)]
    assert (whole.returncode, resumed.returncode) == (0, 0), told
    return directory, read_dataset(data), told


def test_a_command_that_is_killed_goes_on_to_the_same_bits_whatever_the_environment_says(runs):
    directory, _, (whole, resumed) = runs
    pd.testing.assert_frame_equal(
        *(pd.read_parquet(directory / name / "oof.parquet") for name in ("killed", "whole")), check_exact=True
    )
    for one, other in zip(
        *(load_members(directory / name)[0].networks for name in ("killed", "whole")), strict=True
    ):
        for found, expected in zip(weights(one), weights(other), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert "note" not in resumed
    assert "replicas, by jax" in resumed
    (note,) = [line for line in whole.splitlines() if line.startswith("note: ")]
    assert note == (
        "note: ignored settings of Keras: KERAS_MAX_EPOCHS=1, JAX_DEFAULT_PRNG_IMPL=rbg, JAX_ENABLE_X64=1, "
        "JAX_RANDOM_SEED_OFFSET=7, KERAS_BACKEND=tensorflow, floatx float16 in keras.json, epsilon 0.1 in keras.json, "
        "image_data_format channels_first in keras.json"
    )


def test_its_export_gives_the_out_of_fold_predictions(runs):
    directory, dataset, _ = runs
    from moa_tf.serving.predict import load_model

    table = pd.read_parquet(directory / "whole/oof.parquet")
    rows = pd.Index(dataset.signatures.sig_id).get_indexer(table["sig_id"])
    predicted = load_model(directory / "saved").predict(dataset.signatures.take(rows))
    np.testing.assert_allclose(predicted, table[list(dataset.target_names)], atol=1e-5, rtol=0)


def test_a_run_has_its_backend_and_goes_on_with_no_other(runs):
    directory, dataset, _ = runs
    description = Run(directory / "whole").description
    assert description["backend"] == "jax"
    assert set(description["versions"]) == {"moa-tf", "jax", "keras", "python"}
    family = get_family("mlp")
    learner = NetworkLearner(family, family.presets["small"], make_placement("none"))
    with pytest.raises(InputError, match=r"run\.json: backend was jax, now tensorflow; cannot resume"):
        cross_validate(dataset, learner, Validation(), Run(directory / "whole"), resume=True)


def test_a_strange_environment_changes_nothing_on_tensorflow(tmp_path):
    data = write_simulation(tmp_path / "data", 300, seed=3)
    train = ["train", "--data", data, *ARGUMENTS]
    processes = [
        moa_tf(*train, "--out", tmp_path / "plain"),
        moa_tf(*train, "--out", tmp_path / "strange", **strange(tmp_path), KERAS_BACKEND="jax"),
    ]
    told = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert "KERAS_BACKEND=jax, floatx float16 in keras.json" in told[1]
    tables = [pd.read_parquet(tmp_path / name / "oof.parquet") for name in ("plain", "strange")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
