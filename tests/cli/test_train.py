import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moa_tf.cli.main import main
from moa_tf.data.simulate import write_simulation

# One training a fold.
UNSTEERED = ["--set", "decays=", "--set", "early_stopping=0"]
FAST = ["--set", "hidden=16", "--epochs", "2", "--batch-size", "64", *UNSTEERED]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = write_simulation(tmp_path_factory.mktemp("data") / "sample", 400, seed=3)
    drugs = pd.read_csv(directory / "train_drug.csv")
    drugs["lab"] = np.where(np.arange(len(drugs)) % 3, "one", "two")
    drugs.to_csv(directory / "train_drug.csv", index=False)
    return directory


def moa_tf(*arguments, **options):
    code = "from moa_tf.cli.main import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **options)


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["moa-tf", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return run


def test_train_ends_with_metrics_model_and_next_command(call, data, tmp_path):
    code, out, err = call(
        "train", "--data", data, "--folds", 2, "--out", "r", "--json", "figures.json", *FAST
    )
    assert code == 0, err
    assert "preset small (by itself for 400 signatures)" in err
    assert "simulated" in err
    assert "simulated data" in out
    assert "saved_models/mlp/1" in out
    assert f"Next: moa-tf predict saved_models/mlp {data}/test_features" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["overall"]["log_loss_treated"] > 0
    assert figures["preset"] == "small"
    assert (tmp_path / "saved_models/mlp/1/saved_model.pb").is_file()


def test_the_shuffled_control_is_not_exported(call, data, tmp_path):
    code, out, _ = call("train", "--data", data, "--folds", 2, "--only-fold", 0, "--shuffle-labels", *FAST)
    assert code == 0
    assert "shuffled labels" in out
    assert not (tmp_path / "saved_models").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "large"], "expected one of one-cycle, article, small"),
        (["--set", "width=3"], "expected key=value"),
        (["--resume"], "expected --out"),
        (
            ["--split", "cell"],
            "--split cell: expected one of drug, row, kaggle, or a further column of train_drug",
        ),
        (["--split", "lab", "--folds", "3"], "--folds 3: expected at most 2, as there are 2 lab groups"),
        (["--folds", "3", "--only-fold", "3"], "expected 0 to 2"),
        (["--pretrain"], "expected --model tabnet"),
        (["--pretrain-also", "x.csv"], "expected --pretrain"),
        (["--logical-devices", "2"], "mirrored"),
        (["--seed", "4294967296"], "4294967295"),
        (["--out", "gs://bucket/run"], "only local paths work here"),
        (["--export", "models[9]"], "TensorFlow takes"),
    ],
)
def test_bad_settings_are_one_line_and_exit_status_2(call, data, arguments, message):
    code, out, err = call("train", "--data", data, *arguments)
    assert code == 2
    errors = [line for line in err.splitlines() if line.lower().startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in err + out
    assert not Path("runs").exists()


def test_a_trial_is_exported_only_if_asked_and_a_whole_run_once(call, data, tmp_path):
    trial = ["train", "--data", data, "--split", "lab", "--folds", 2, "--out", "r", *FAST]
    code, out, err = call(*trial, "--only-fold", 0)
    assert code == 0
    assert "2 folds by lab" in err
    assert "drugs are in several groups, and so in training as well as held out" in err
    assert "groups of lab held out" in out
    assert "none (1 of 2 folds; give --export to export them all the same)" in out
    assert not (tmp_path / "saved_models").exists()
    code, out, _ = call(*trial, "--only-fold", 0, "--resume", "--export", "trials")
    assert (code, "trials/1" in out) == (0, True)
    metadata = json.loads((tmp_path / "trials/1/assets/metadata.json").read_text())
    assert "1 of 2 cross-validation folds" in metadata["ensemble"]
    assert (metadata["split"], metadata["groups"]["groups"]) == ("lab", 2)

    code, out, _ = call(*trial, "--resume")
    assert (code, "saved_models/mlp/1" in out) == (0, True)
    code, out, err = call(*trial, "--resume")
    assert code == 0, err
    assert "saved_models/mlp/1 (exported before, of the same models)" in out
    assert [path.name for path in (tmp_path / "saved_models/mlp").iterdir()] == ["1"]


def test_what_cannot_be_written_is_found_before_the_training(call, data, tmp_path):
    (tmp_path / "file").write_text("mine")
    for option in ("--export", "--out", "--json"):
        code, _, err = call("train", "--data", data, "--folds", 2, option, "file/models", *FAST)
        assert code == 2
        assert err.startswith("error: ")
        assert "file" in err
        assert not (tmp_path / "runs").exists()


def test_the_next_command_can_be_pasted(call, data, tmp_path):
    shutil.copytree(data, tmp_path / "my data")
    code, out, _ = call("train", "--data", "my data", "--folds", 2, "--export", "my models", *FAST)
    assert code == 0
    command = shlex.split(out.partition("Next: ")[2].splitlines()[0])
    assert command == ["moa-tf", "predict", "my models", "my data/test_features.csv", "predictions.csv"]


def change(data, directory, table, edit):
    shutil.copytree(data, directory)
    frame = pd.read_csv(directory / table)
    edit(frame)
    frame.to_csv(directory / table, index=False)
    return directory


@pytest.mark.parametrize(
    ("table", "edit", "message"),
    [
        ("train_features.csv", lambda t: t.__setitem__("cp_type", "ctl_vehicle"), "are controls"),
        (
            "train_features.csv",
            lambda t: t.__setitem__([c for c in t if c[:2] in ("g-", "c-")], 1.0),
            "no gene and no cell line varies",
        ),
        (
            "train_features.csv",
            lambda t: t.__setitem__(
                "cp_type", np.where(np.arange(len(t)) < len(t) - 1, "ctl_vehicle", "trt_cp")
            ),
            "no treated signature is",
        ),
    ],
)
def test_data_that_nothing_can_be_learnt_from(call, data, tmp_path, table, edit, message):
    directory = change(data, tmp_path / "d", table, edit)
    code, out, err = call("train", "--data", directory, "--folds", 2, *FAST)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1)
    assert message in errors[0]
    assert "Traceback" not in err + out
    assert not (tmp_path / "runs").exists()


def test_a_kind_that_does_not_vary_and_targets_without_a_positive(call, data, tmp_path):
    directory = change(
        data,
        tmp_path / "d",
        "train_features.csv",
        lambda t: t.__setitem__([c for c in t if c[:2] == "c-"], 1.0),
    )
    targets = pd.read_csv(directory / "train_targets_scored.csv")
    targets[targets.columns[1:]] = 0
    targets.to_csv(directory / "train_targets_scored.csv", index=False)
    code, out, err = call("train", "--data", directory, "--folds", 2, "--out", "r", "--json", "f.json", *FAST)
    assert code == 0, err
    assert "No target has both a positive and a negative" in out
    assert "positive" in err
    for file in ("f.json", "r/metrics.json"):
        figures = json.loads((tmp_path / file).read_text(), parse_constant=lambda name: pytest.fail(name))
        assert figures["overall"]["macro_auroc"] is None


@pytest.mark.slow
def test_other_data_are_not_gone_on_with_and_the_same_elsewhere_are(call, data, tmp_path):
    shutil.copytree(data, tmp_path / "moved")
    features = pd.read_csv(data / "test_features.csv")
    features.to_csv(tmp_path / "first.csv", index=False)
    features.to_parquet(tmp_path / "same.parquet", index=False)
    features.assign(**{"g-0": features["g-0"] + 1}).to_csv(tmp_path / "other.csv", index=False)
    arguments = ["--model", "tabnet", "--folds", 2, "--only-fold", 0, "--epochs", 1, "--out", "r", "--pretrain",
                 "--set", "pretrain_epochs=1", *UNSTEERED]  # fmt: skip
    code, _, err = call("train", "--data", data, "--pretrain-also", "first.csv", *arguments)
    assert code == 0, err
    inputs = json.loads((tmp_path / "r/run.json").read_text())["data"]["inputs"]
    assert inputs["unlabelled_signatures"] == len(features)
    code, _, err = call("train", "--data", "moved", "--pretrain-also", "same.parquet", "--resume", *arguments)
    assert code == 0, err
    code, _, err = call("train", "--data", data, "--pretrain-also", "other.csv", "--resume", *arguments)
    assert code == 2
    assert "data.inputs.unlabelled was" in err
    # A preset by its name, or found by itself: the settings are the same.
    code, _, err = call(
        "train", "--data", data, "--pretrain-also", "first.csv", "--resume", "--preset", "small", *arguments
    )
    assert code == 0, err


def test_data_that_is_not_there(call, tmp_path):
    code, _, err = call("train", "--data", tmp_path / "nothing")
    assert code == 2
    assert "nothing" in err
    assert "Traceback" not in err


def test_too_little_disk_is_one_line_before_anything_is_read(call, data, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    code, _, err = call("train", "--data", data, "--storage", "disk", "--out", "runs/r")
    assert code == 2
    errors = [line for line in err.splitlines() if line.lower().startswith("error: ")]
    assert len(errors) == 1
    assert (
        "signatures, their features and predictions, and 0.0 GB are free; expected more, an --out on" in err
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_killed_at_any_moment_resume_ends_as_without_the_kill(data, tmp_path):
    # Epochs enough that the kill comes in the middle of a fold.
    arguments = ["train", "--data", data, "--folds", 3, "--export", tmp_path / "models", "--set", "hidden=16"]
    arguments += ["--epochs", 60, "--batch-size", 64]
    assert moa_tf(*arguments, "--out", tmp_path / "whole").wait(600) == 0
    out, from_disk = tmp_path / "killed", [*arguments, "--storage", "disk"]
    for part in (
        "run.json",
        "fold-0/preprocessing.keras",
        "fold-1/preprocessing.keras",
        "fold-2/seed-0/network.keras",
    ):
        process = moa_tf(*from_disk, "--out", out, *(["--resume"] if out.exists() else []))
        deadline = time.monotonic() + 300
        while not (out / part).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = [path.stat().st_mtime_ns for path in sorted(out.glob("fold-*/seed-0/finished.json"))]
    assert finished
    assert moa_tf(*from_disk, "--out", out, "--resume").wait(600) == 0
    after = [path.stat().st_mtime_ns for path in sorted(out.glob("fold-*/seed-0/finished.json"))]
    assert after[: len(finished)] == finished
    pd.testing.assert_frame_equal(
        pd.read_parquet(out / "oof.parquet"), pd.read_parquet(tmp_path / "whole/oof.parquet")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("mlp", ["--set", "hidden=16", "--precision", "mixed_bfloat16"]),
        ("mlp", ["--set", "hidden=16", "--precision", "mixed_float16", *UNSTEERED]),
        (
            "tabm",
            [
                "--set",
                "hidden=16,16",
                "--set",
                "k=4",
                "--set",
                "keep=2",
                "--precision",
                "mixed_bfloat16",
                *UNSTEERED,
            ],
        ),
        (
            "tabnet",
            ["--set", "virtual_batch_size=32", "--pretrain", "--set", "pretrain_epochs=1", *UNSTEERED],
        ),
        ("tabnet", ["--set", "virtual_batch_size=32", "--precision", "mixed_float16", *UNSTEERED]),
        ("deepinsight", ["--preset", "small", "--set", "image_size=32"]),
    ],
)
def test_every_model_from_simulation_to_scored_predictions_on_two_replicas(model, settings, data, tmp_path):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}

    def run(*arguments):
        done = moa_tf(*arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        printed, _ = done.communicate(timeout=900)
        assert done.returncode == 0
        return printed

    run(
        *["train", "--data", data, "--model", model, "--strategy", "mirrored", "--logical-devices", 2],
        *["--folds", 2, "--epochs", 1, "--batch-size", 64, "--out", "run", *settings],
    )
    run("predict", f"saved_models/{model}", data / "test_features.csv", "predictions.csv")
    run("predict", f"saved_models/{model}", data / "train_features.csv", "train.parquet")
    sample = pd.read_csv(data / "sample_submission.csv")
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert list(predictions.columns) == list(sample.columns)
    assert predictions.sig_id.tolist() == sample.sig_id.tolist()
    assert np.isfinite(predictions.iloc[:, 1:].to_numpy()).all()
    table = run(
        *["evaluate", "train.parquet", data / "train_targets_scored.csv"],
        *["--features", data / "train_features.csv"],
    )
    assert "Log loss" in table
