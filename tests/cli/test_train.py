import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from moa_tf.cli.main import main
from moa_tf.data.simulate import write_simulation

FAST = ["--set", "hidden=16", "--epochs", "2", "--batch-size", "64"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_simulation(tmp_path_factory.mktemp("data") / "sample", 400, seed=3)


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
        (["--folds", "3", "--only-fold", "3"], "expected 0 to 2"),
        (["--pretrain"], "expected --model tabnet"),
        (["--pretrain-also", "x.csv"], "expected --pretrain"),
        (["--logical-devices", "2"], "mirrored"),
    ],
)
def test_bad_settings_are_one_line_and_exit_status_2(call, data, arguments, message):
    code, out, err = call("train", "--data", data, *arguments)
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in err + out


def test_data_that_is_not_there(call, tmp_path):
    code, _, err = call("train", "--data", tmp_path / "nothing")
    assert code == 2
    assert "nothing" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_killed_at_any_moment_resume_ends_as_without_the_kill(data, tmp_path):
    # Epochs enough that the kill comes in the middle of a fold.
    arguments = ["train", "--data", data, "--folds", 3, "--export", tmp_path / "models", "--set", "hidden=16"]
    arguments += ["--epochs", 60, "--batch-size", 64]
    assert moa_tf(*arguments, "--out", tmp_path / "whole").wait(600) == 0
    out = tmp_path / "killed"
    for part in (
        "run.json",
        "fold-0/preprocessing.keras",
        "fold-1/preprocessing.keras",
        "fold-2/seed-0/network.keras",
    ):
        process = moa_tf(*arguments, "--out", out, *(["--resume"] if out.exists() else []))
        deadline = time.monotonic() + 300
        while not (out / part).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = [path.stat().st_mtime_ns for path in sorted(out.glob("fold-*/seed-0/finished.json"))]
    assert finished
    assert moa_tf(*arguments, "--out", out, "--resume").wait(600) == 0
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
        ("mlp", ["--set", "hidden=16", "--precision", "mixed_float16"]),
        ("tabnet", ["--set", "virtual_batch_size=32", "--pretrain", "--set", "pretrain_epochs=1"]),
        ("tabnet", ["--set", "virtual_batch_size=32", "--precision", "mixed_float16"]),
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
