"""The functions of `moa_tf` beside the commands of the same name."""

import importlib.util
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import moa_tf
from moa_tf.data.read import read_dataset

ASSIGNMENTS = ["--set", "hidden=16", "--set", "decays=", "--set", "early_stopping=0", "--set", "dropout=.1"]
"""The fixture's settings, as the command line has them."""


def test_the_surface_is_lazy_and_whole():
    code = """
import sys, moa_tf
assert not {"numpy", "pandas", "keras", "tensorflow", "sklearn"} & set(sys.modules), "import"
assert set(moa_tf.__all__) <= set(dir(moa_tf))
for name in moa_tf.__all__:
    getattr(moa_tf, name)
assert "tensorflow" not in sys.modules or "MoAClassifier" in moa_tf.__all__
try:
    moa_tf.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "module 'moa_tf' has no attribute 'nothing'\n"


def test_train_is_the_command(trained, data, call, tmp_path, kept):
    options = ["--folds", 2, "--only-fold", 1, "--epochs", 3, "--batch-size", 64, "--out", "r", *ASSIGNMENTS]
    code, _, err = call("train", "--data", data, *options, "--tensorboard", "board")
    assert code == 0, err
    theirs = pd.read_parquet(tmp_path / "r" / "oof.parquet").set_index("sig_id")
    ours = trained.out_of_fold()
    pd.testing.assert_frame_equal(ours[ours["fold"] == 1], theirs)
    assert len(list((tmp_path / "board" / "fold-1-seed-0").iterdir())) == 1
    assert trained.metrics == json.loads((trained.directory / "metrics.json").read_text())
    assert (trained.model, trained.preset) == ("mlp", "small")
    assert any("preset small (by itself for 400 signatures)" in line for line in kept.lines)
    assert any("simulated data" in line for line in kept.lines)


def test_callbacks_are_told_of_everything(trained, kept):
    names = [what for what, *_ in kept.told]
    assert names == ["settings", *["member", "epoch", "epoch", "epoch"] * 2, "metrics"]
    assert kept.told[0] == ("settings", 3)
    assert [label for what, label, *_ in kept.told if what == "member"] == ["fold 0 seed 0", "fold 1 seed 0"]
    assert kept.told[-1] == ("metrics", trained.metrics["overall"]["log_loss_treated"])


def test_tensorboard_has_each_networks_scalars(trained, home):
    assert sorted(path.name for path in (home / "board").iterdir()) == ["fold-0-seed-0", "fold-1-seed-0"]
    found = {}
    for file in sorted((home / "board" / "fold-1-seed-0").iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    history = json.loads((trained.directory / "fold-1/seed-0/history.json").read_text())["epochs"]
    tags = {"loss": "loss/training", "held_out_log_loss": "loss/validation", "learning_rate": "learning_rate"}
    for name, tag in tags.items():
        assert found[tag] == {step: pytest.approx(each[name]) for step, each in enumerate(history, 1)}


def test_a_dataset_does_as_its_directory(trained, data, tmp_path):
    again = moa_tf.train(
        moa_tf.read_dataset(data),
        settings=["hidden=16", "decays=", "early_stopping=0", "dropout=0.1"],
        folds=2,
        epochs=3,
        batch_size=64,
        only_fold=1,
        out=trained.directory,
        resume=True,
    )
    assert again.metrics == trained.metrics


def test_an_unchanged_run_is_exported_once(trained, saved_model, home):
    assert trained.export(home / "models") == saved_model
    assert [path.name for path in (home / "models").iterdir()] == ["1"]


def test_predict_gives_what_the_command_writes(saved_model, data, call, tmp_path):
    assert call("predict", saved_model, data / "test_features.csv", "p.csv")[0] == 0
    written = pd.read_csv(tmp_path / "p.csv")
    model = moa_tf.load_model(saved_model.parent)
    features = pd.read_csv(data / "test_features.csv")
    predicted = model.predict(features)
    pd.testing.assert_frame_equal(predicted, written, check_dtype=False, rtol=0, atol=1e-7)
    assert predicted[list(model.targets)].dtypes.eq(np.float32).all()

    # By name: another order, further columns, ids in the index, categories and text for numbers.
    other = features[[*reversed(features.columns)]].set_index("sig_id").iloc[::-1]
    other = other.assign(note=np.resize(np.array([1, "x", None], object), len(other)))
    other["cp_dose"] = other["cp_dose"].astype("category")
    again = model.predict(other)
    assert list(again.index) == list(features["sig_id"][::-1])
    np.testing.assert_array_equal(again.to_numpy()[::-1], predicted[list(model.targets)].to_numpy())
    assert (again[other["cp_type"] == "ctl_vehicle"] == 0).all(axis=None)


def test_every_fault_of_a_frame_is_named(saved_model, data, caplog):
    model = moa_tf.load_model(saved_model)
    features = pd.read_csv(data / "test_features.csv").head(5)
    with caplog.at_level(logging.WARNING, "moa_tf"):
        model.predict(features.assign(plate=1))
    assert caplog.messages == ["DataFrame: 1 column is not used (plate)"]
    bad = features.drop(columns="g-1").assign(**{"g-0": [1, 2, np.nan, "x", 5]}, cp_time=-1)
    with pytest.raises(moa_tf.InputError) as raised:
        model.predict(bad)
    lines = str(raised.value).splitlines()
    assert "DataFrame: column g-1 is missing" in lines
    assert any(line.startswith("DataFrame: column g-0: 1 missing or NaN (row 3, sig_id ") for line in lines)
    assert any(line.startswith("DataFrame: column g-0: 1 not a number (row 4, sig_id ") for line in lines)
    assert any(line.startswith("DataFrame: column cp_time: 5 not above 0") for line in lines)
    for wrong, message in (
        (features.to_numpy(), "ndarray, expected a DataFrame"),
        (features.iloc[:0], "no rows"),
        (pd.concat([features, features[["g-0"]]], axis=1), "1 column names occur more than once"),
        (features.assign(sig_id="a"), "4 repeated"),
    ):
        with pytest.raises(moa_tf.InputError, match=message):
            model.predict(wrong)


def test_explain_takes_a_frame_or_a_file(saved_model, data, call, tmp_path):
    features = pd.read_csv(data / "test_features.csv").head(10)
    features.to_csv(tmp_path / "few.csv", index=False)
    explained = moa_tf.explain(saved_model, features, tmp_path / "mine")
    assert call("explain", saved_model, "few.csv", "theirs")[0] == 0
    for name in ("importance.csv", "mechanisms.csv"):
        assert (tmp_path / "mine" / name).read_text() == (tmp_path / "theirs" / name).read_text()
    assert explained.signatures == 10
    assert explained.importance["importance"].sum() == pytest.approx(1, abs=1e-4)
    with pytest.raises(moa_tf.InputError, match="is there already"):
        moa_tf.explain(saved_model, features, tmp_path / "mine")


def test_rank_takes_a_frame_or_a_file(saved_model, data, call, tmp_path):
    features = pd.read_csv(data / "test_features.csv").head(60)
    features.to_csv(tmp_path / "few.csv", index=False)
    ranked = moa_tf.rank(saved_model, features.set_index("sig_id"), tmp_path / "mine", least=0.0)
    assert call("rank", saved_model, "few.csv", "theirs", "--least", 0)[0] == 0
    theirs = pd.read_csv(tmp_path / "theirs" / "hypotheses.csv")
    pd.testing.assert_frame_equal(ranked.hypotheses(), theirs, rtol=1e-5)
    assert len(ranked.cards) == (features["cp_type"] == "trt_cp").sum()


def test_compare_gives_the_leaderboard(data, tmp_path):
    dataset = read_dataset(data)
    compared = moa_tf.compare(dataset, out=tmp_path / "c", models=["prior", "ridge"], folds=2)
    board = compared.leaderboard()
    assert list(board.index) == ["ridge", "prior"]
    assert board["log_loss_treated"].is_monotonic_increasing
    assert compared.simulated
    assert (tmp_path / "c" / "index.html").is_file()
    with pytest.raises(moa_tf.InputError, match="none of the models has Keras networks"):
        compared.export(tmp_path / "m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "mlq"}, "expected one of mlp"),
        ({"preset": "large"}, "expected one of one-cycle"),
        ({"settings": {"width": 3}}, "expected key=value, with key one of"),
        ({"settings": {"hidden": (16, 0.5)}}, "a comma-separated list of int"),
        ({"resume": True}, "expected --out"),
        ({"split": "cell"}, "--split cell: expected one of drug, row, kaggle"),
        ({"folds": 1}, "expected at least 2"),
        ({"seeds": 0}, "seeds=0: expected at least 1"),
        ({"missing": True}, "missing=True: expected refuse or median"),
        ({"missing": "median"}, "was read without"),
        ({"precision": "float64"}, "precision=float64: expected one of float32"),
        ({"pretrain": "labels"}, "pretrain=labels: expected features or nonscored"),
        ({"stack": "scored"}, "stack=scored: expected nonscored"),
        ({"backend": "torch"}, "backend=torch: expected one of tensorflow, jax"),
        ({"backend": "jax"}, "Keras runs on tensorflow in this process"),
        ({"strategy": "gpu"}, "--strategy gpu: expected one of none"),
        ({"out": "gs://bucket/run"}, "only local paths work here"),
    ],
)
def test_a_wrong_call_is_an_input_error_before_anything_is_written(
    data, options, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(moa_tf.InputError, match=message) as raised:
        moa_tf.train(read_dataset(data), **options)
    assert isinstance(raised.value, ValueError)
    assert not list(tmp_path.iterdir())


JAX = """
import sys
import numpy as np, pandas as pd, moa_tf
data, home = sys.argv[1:]
settings = {"hidden": (16,), "decays": (), "early_stopping": 0}
run = moa_tf.train(
    data, backend="jax", folds=2, epochs=2, settings=settings, out=f"{home}/run", tensorboard=f"{home}/board"
)
features = pd.read_csv(f"{data}/test_features.csv").head(30)
version = run.export(f"{home}/models")
predicted = moa_tf.load_model(version).predict(features)
assert moa_tf.explain(version, features.head(4), f"{home}/explained").signatures == 4
for call, message in (
    (lambda: moa_tf.explain(run.directory, features, f"{home}/other"), "Keras runs on jax in this process"),
    (lambda: moa_tf.train(data), "expected backend='jax'"),
):
    try:
        call()
    except moa_tf.InputError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(60, 5)), rng.integers(0, 2, (60, 3))
assert moa_tf.MoAClassifier(epochs=1, settings=settings).fit(X, Y).predict_proba(X).shape == (60, 3)
predicted.to_csv(f"{home}/p.csv", index=False)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_on_jax(data, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KERAS_")}
    subprocess.run([sys.executable, "-c", JAX, str(data), str(tmp_path)], env=environment, check=True)
    assert len(list((tmp_path / "board" / "fold-1-seed-0").iterdir())) == 1
    model = moa_tf.load_model(tmp_path / "models")
    here = model.predict(pd.read_csv(data / "test_features.csv").head(30))
    pd.testing.assert_frame_equal(here, pd.read_csv(tmp_path / "p.csv"), check_dtype=False, atol=1e-6)
