import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from moa_tf.cli.main import main
from moa_tf.data.schema import DOSES, TYPES, Dataset, Signatures, SignatureSpec


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    spec = SignatureSpec(tuple(f"g-{i}" for i in range(6)), ("c-0", "c-1", "c-2"))
    signatures = Signatures(
        spec,
        np.array([f"s{i}" for i in range(90)], object),
        rng.normal(size=(90, 6)).astype(np.float32),
        rng.normal(size=(90, 3)).astype(np.float32),
        (np.arange(90) % 10 == 0).astype(np.int32),
        rng.choice([24, 48, 72], 90).astype(np.float32),
        rng.integers(0, 2, 90).astype(np.int32),
    )
    targets = (signatures.genes[:, :3] > 0.5).astype(np.float32) * ~signatures.control[:, None]
    drugs = np.array([f"drug{i // 2}" for i in range(90)], object)
    return Dataset(signatures, targets, ("t1", "t2", "t3"), drugs, fingerprint="f" * 64, simulated=True)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A finished run of the first of three folds, with two seeds."""
    from moa_tf.config import override
    from moa_tf.models.base import get_family
    from moa_tf.training.cross_validation import Validation, cross_validate
    from moa_tf.training.network_learner import NetworkLearner
    from moa_tf.training.run import Run
    from moa_tf.training.strategy import make_placement

    family = get_family("mlp")
    small = override(family.presets["small"], ["hidden=8", "epochs=2", "batch_size=16"])
    learner = NetworkLearner(family, small, make_placement("none"))
    out = tmp_path_factory.mktemp("run") / "run"
    cross_validate(dataset, learner, Validation(folds=3, seeds=2), Run(out), only_fold=0)
    return out


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["moa-tf", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def test_exported_model_predicts_as_training_did(run, dataset, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, "export", run, tmp_path / "models", "--json", tmp_path / "figures.json") == 0
    assert str(tmp_path / "models" / "1") in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["saved_model"] == str(tmp_path / "models" / "1")
    assert figures["targets"] == list(dataset.target_names)
    assert figures["fingerprint"] == "f" * 64
    assert figures["simulated"] is True
    assert figures["networks"] == 2
    assert figures["metrics"]["log_loss_all"] > 0

    signatures = dataset.signatures
    features = pd.DataFrame(np.hstack([signatures.cells, signatures.genes]))
    features.columns = [*signatures.spec.cells, *signatures.spec.genes]
    features["sig_id"], features["cp_time"] = signatures.sig_id, signatures.cp_time
    features["cp_type"] = np.array(TYPES)[signatures.cp_type]
    features["cp_dose"] = np.array(DOSES)[signatures.cp_dose]
    features.to_csv(tmp_path / "features.csv", index=False)
    out = tmp_path / "predictions.csv"
    assert call(monkeypatch, "predict", tmp_path / "models", tmp_path / "features.csv", out) == 0
    predicted = pd.read_csv(out, index_col="sig_id")
    assert predicted.index.tolist() == signatures.sig_id.tolist()
    # The one fold's models are all there is, so on its held-out rows the export gives the run's predictions.
    expected = pd.read_parquet(run / "oof.parquet").set_index("sig_id")[list(dataset.target_names)]
    assert 0 < len(expected) < len(signatures)
    np.testing.assert_allclose(predicted.loc[expected.index, expected.columns], expected, atol=1e-6)
    assert (predicted[signatures.control] == 0).all(axis=None)


WITHOUT_PACKAGE = """
import sys
sys.modules["moa_tf"] = None  # importing it now is an ImportError
import numpy as np, tensorflow as tf
inputs = {name: tf.constant(value.tolist(), tf.string if value.dtype.kind == "U" else tf.float32)
          for name, value in np.load("inputs.npz").items()}
signatures = tf.saved_model.load(sys.argv[1]).signatures
np.save("probabilities.npy", signatures["serving_default"](**inputs)["probabilities"])
np.savez("explained.npz", **signatures["explain"](**inputs))
"""


@pytest.mark.slow
def test_exported_layers_of_the_package_run_without_it(run, dataset, tmp_path):
    import tensorflow as tf

    from moa_tf.models.base import get_family
    from moa_tf.serving.predict import load_model
    from moa_tf.serving.run_export import export_run
    from moa_tf.training.members import load_members

    version = export_run(run, tmp_path / "models")
    inputs = dataset.signatures.inputs()
    inputs["cp_type"] = np.array(TYPES)[inputs["cp_type"]]
    inputs["cp_dose"] = np.array(DOSES)[inputs["cp_dose"]]
    np.savez(tmp_path / "inputs.npz", **inputs)
    subprocess.run([sys.executable, "-c", WITHOUT_PACKAGE, version], cwd=tmp_path, check=True)
    expected = load_model(version).predict(dataset.signatures)
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), expected, atol=1e-6)
    # The baselines travel along, too.
    direct = get_family("mlp").explain(load_members(run))
    direct = tf.function(direct)({key: tf.constant(x) for key, x in dataset.signatures.inputs().items()})
    with np.load(tmp_path / "explained.npz") as explained:
        assert set(explained) == {"attribution", "importance", "target", "logit", "baseline_logit"}
        for key, value in direct.items():
            np.testing.assert_allclose(explained[key], value, rtol=1e-3, atol=1e-4, err_msg=key)


def test_a_damaged_run_is_named_and_nothing_is_exported(run, tmp_path, monkeypatch, capsys):
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    with (damaged / "fold-0" / "seed-1" / "network.keras").open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    assert call(monkeypatch, "export", damaged, tmp_path / "models") == 2
    printed = capsys.readouterr()
    assert "seed-1/network.keras: damaged" in printed.err
    assert printed.out == ""
    assert not (tmp_path / "models").exists()


def test_what_is_no_run_or_a_control(run, dataset, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, "export", tmp_path, tmp_path / "models") == 2
    assert "no run.json" in capsys.readouterr().err
    shuffled = tmp_path / "run"
    shutil.copytree(run, shuffled)
    description = json.loads((shuffled / "run.json").read_text())
    description["settings"]["shuffle_labels"] = True
    (shuffled / "run.json").write_text(json.dumps(description))
    assert call(monkeypatch, "export", shuffled, tmp_path / "models") == 2
    assert "shuffled labels" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
