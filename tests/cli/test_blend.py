import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from moa_tf.cli.main import main
from moa_tf.data.read import read_dataset
from moa_tf.data.simulate import write_simulation

FOLDS = 2
SEEDS = {"linear": 1, "mlp": 2}
SETTINGS = {
    "linear": ["strengths=0.1"],
    "mlp": ["hidden=32", "epochs=12", "batch_size=64", "decays=", "early_stopping=0"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_simulation(tmp_path_factory.mktemp("data") / "sample", 250, seed=3)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """A linear run and an mlp of two seeds, which have the same preprocessing."""
    from moa_tf.config import override
    from moa_tf.models.base import get_family
    from moa_tf.training.cross_validation import Validation, cross_validate
    from moa_tf.training.network_learner import NetworkLearner
    from moa_tf.training.run import Run
    from moa_tf.training.strategy import make_placement

    home, dataset = tmp_path_factory.mktemp("runs"), read_dataset(data)
    for name, settings in SETTINGS.items():
        family = get_family(name)
        learner = NetworkLearner(family, override(family.presets["small"], settings), make_placement("none"))
        cross_validate(dataset, learner, Validation(folds=FOLDS, seeds=SEEDS[name]), Run(home / name))
    return [home / name for name in SETTINGS]


@pytest.fixture(scope="module")
def call():
    def run(monkeypatch, *arguments):
        monkeypatch.setattr(sys, "argv", ["moa-tf", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0

    return run


@pytest.fixture(scope="module")
def blended(runs, call, tmp_path_factory):
    """A calibrated blend, exported."""
    out, root = runs[0].parent / "blend", tmp_path_factory.mktemp("saved_models") / "blend"
    figures = root.parent / "figures.json"
    with pytest.MonkeyPatch.context() as patch:
        options = ["--calibrate", "temperature", "--out", out, "--export", root]
        assert call(patch, "blend", *runs, *options, "--json", figures) == 0
    return out, root, json.loads(figures.read_text())


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def logit(p):
    p = np.clip(np.asarray(p, np.float64), 2.0**-20, 1 - 2.0**-20)
    return np.log(p) - np.log1p(-p)


def formula(description, runs, signatures):
    """What the blend must give, in NumPy float64, from the components' Keras models."""
    from moa_tf.training.members import load_members

    total, inputs = 0.0, signatures.inputs()
    for run, component in zip(runs, description["components"], strict=True):
        networks = []
        for member in load_members(run):
            features = member.preprocessing({name: inputs[name] for name in member.preprocessing.input})
            networks += [sigmoid(np.asarray(one(features), np.float64)) for one in member.networks]
        assert len(networks) == FOLDS * SEEDS[run.name]
        assert component["weight"] > 0.1
        total = total + np.array(component["weight"]) * logit(np.mean(networks, axis=0))
    calibration = description["combination"]["calibration"]
    groups = np.array(calibration["groups"])
    total = total / np.array(calibration["temperature"])[groups] + np.array(calibration["bias"])[groups]
    return np.where(signatures.control[:, None], 0, sigmoid(total))


def test_the_export_is_the_formula_on_raw_signatures(blended, runs, data):
    import tensorflow as tf

    from moa_tf.serving.predict import raw_inputs

    out, root, _ = blended
    signatures = read_dataset(data).signatures
    description = json.loads((out / "run.json").read_text())
    served = tf.saved_model.load(str(root / "1")).signatures["serving_default"]
    given = served(**raw_inputs(signatures))["probabilities"].numpy()
    expected = formula(description, runs, signatures)
    assert (given[signatures.control] == 0).all()
    assert expected[~signatures.control].std() > 0.001
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_what_it_is_travels_along(blended, runs):
    from moa_tf.serving.versions import load_metadata

    _, root, figures = blended
    metadata = load_metadata(root)
    assert metadata["model"] == "blend"
    assert metadata["networks"] == FOLDS * 3
    assert [part["model"] for part in metadata["components"]] == ["linear", "mlp"]
    assert sum(part["weight"] for part in metadata["components"]) == pytest.approx(1)
    assert metadata["left_out"] == []
    assert "4 networks of 2 cross-validation folds" in metadata["ensemble"]
    assert metadata["combination"].endswith("temperature calibration; vehicle controls 0")
    assert metadata["metrics"] == figures["overall"]
    assert figures["saved_model"] == str(root / "1")
    assert [part["run"] for part in figures["components"]] == [str(run) for run in runs]


@pytest.mark.slow
def test_other_commands_take_it_as_a_run_and_as_a_model(blended, data, call, monkeypatch, tmp_path, capsys):
    out, root, figures = blended
    features = next(data.glob("test_features.*"))
    assert call(monkeypatch, "predict", root, features, tmp_path / "p.csv") == 0
    probabilities = pd.read_csv(tmp_path / "p.csv", index_col="sig_id")
    arguments = [out / "oof.parquet", next(data.glob("train_targets_scored.*"))]
    arguments += ["--features", next(data.glob("train_features.*")), "--json", tmp_path / "e.json"]
    assert call(monkeypatch, "evaluate", *arguments) == 0
    evaluated = json.loads((tmp_path / "e.json").read_text())
    assert evaluated["log_loss_treated"] == pytest.approx(figures["overall"]["log_loss_treated"], rel=1e-6)
    tables = []
    for place, model in enumerate((out, root)):
        assert call(monkeypatch, "explain", model, features, tmp_path / f"explained-{place}") == 0
        table = pd.read_csv(tmp_path / f"explained-{place}" / "importance.csv", index_col="feature")
        tables.append(table["importance"].sort_index())
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-4)
    assert tables[0].sum() == pytest.approx(1, abs=1e-3)
    assert probabilities.shape == (50, len(read_dataset(data).target_names))
    capsys.readouterr()


@pytest.mark.slow
def test_importance_is_the_weighted_mean_of_the_components(blended, data):
    import tensorflow as tf

    from moa_tf.ensemble.ensemble import content_digest
    from moa_tf.ensemble.opening import open_run

    opened = open_run(blended[0])
    contents = [content_digest(member.preprocessing) for member in opened.ensemble.members]
    assert contents[:FOLDS] == contents[FOLDS:]
    assert len(set(contents)) == FOLDS
    signatures = read_dataset(data).signatures.take(np.arange(6))
    inputs = {name: tf.constant(values) for name, values in signatures.inputs().items()}
    explained = tf.function(opened.explainer())(inputs)
    target = explained["target"].numpy()
    probabilities = opened.ensemble.probabilities(inputs).numpy()
    np.testing.assert_array_equal(target, probabilities.argmax(axis=1))
    total = 0.0
    for weights, family, members in zip(
        opened.combination.weights, opened.families, opened.ensemble.components, strict=True
    ):
        own = tf.function(family.explain(members))({**inputs, "target": explained["target"]})
        np.testing.assert_array_equal(own["target"], target)
        importance = own["importance"].numpy()
        share = importance / importance.sum(axis=1, keepdims=True)
        total = total + share * weights
    np.testing.assert_allclose(explained["importance"], total, rtol=1e-3, atol=1e-6)


def test_a_component_without_networks_is_left_out(runs, data, tmp_path):
    from moa_tf.ensemble.blend import blend_runs
    from moa_tf.ensemble.combination import BlendOptions
    from moa_tf.ensemble.opening import open_run
    from moa_tf.training.run import Run, write_text

    bare = tmp_path / "bare"
    shutil.copytree(runs[0], bare)
    description, metrics = Run(bare).description, Run(bare).metrics()
    description["model"], description["plan"] = "ridge", description["plan"] | {"shared": [], "files": []}
    write_text(bare / "run.json", description)
    write_text(bare / "metrics.json", metrics | {"models": Run(bare).digest()})
    lines = []
    out = tmp_path / "blend"
    figures = blend_runs([bare, runs[1]], out, BlendOptions(), lines.append)["components"]
    assert lines == [f"{bare}: has no Keras networks, so it counts here, and is left out of an export"]
    assert 0.1 < figures[0]["weight"] < 0.9
    opened = open_run(out)
    assert opened.left_out == ("ridge",)
    assert [run.directory.resolve() for run in opened.components] == [runs[1].resolve()]
    assert opened.combination.weights.tolist() == [1.0]


def test_a_component_that_is_missing_or_has_changed(blended, runs, call, monkeypatch, tmp_path, capsys):
    for name in ("linear", "mlp", "blend"):
        shutil.copytree(runs[0].parent / name, tmp_path / name)
    seal = tmp_path / "mlp" / "fold-0" / "seed-1" / "finished.json"
    text = seal.read_text()
    seal.write_text(text.replace('"network.keras": "', '"network.keras": "0'))
    shutil.rmtree(tmp_path / "linear")
    for words in ("linear: no run.json there", "mlp holds other models than were blended"):
        assert call(monkeypatch, "export", tmp_path / "blend", tmp_path / "models") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
        shutil.copytree(runs[0], tmp_path / "linear", dirs_exist_ok=True)
    assert not (tmp_path / "models").exists()


def test_bad_calls_are_one_line(runs, blended, call, monkeypatch, tmp_path, capsys):
    for arguments, words in (
        ([*runs, "--out", blended[0]], "is there already"),
        ([runs[0], "--out", tmp_path / "x"], "expected two or more"),
        ([*runs, "--out", tmp_path / "x", "--data", tmp_path / "none"], "no such directory"),
        ([*runs, "--out", tmp_path / "x", "--export", "m[9]"], "TensorFlow takes"),
    ):
        assert call(monkeypatch, "blend", *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    assert list(tmp_path.iterdir()) == []
