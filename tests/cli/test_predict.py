import json
import os
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest

from moa_tf.cli.main import main
from moa_tf.data.schema import SignatureSpec
from moa_tf.models.base import Member

SPEC = SignatureSpec(("g-0", "g-1"), ("c-0",))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two versions: the first gives every target 0.5, the second sigmoid(g-0), sigmoid(g-1), sigmoid(c-0)."""
    import keras

    from moa_tf.ensemble.ensemble import Ensemble
    from moa_tf.serving.export import export

    root = tmp_path_factory.mktemp("saved_models") / "linear"
    for weights in (np.zeros((3, 3)), np.eye(3)):
        inputs = {
            name: keras.Input(shape, dtype=dtype, name=name) for name, (shape, dtype) in SPEC.inputs.items()
        }
        inputs = {name: inputs[name] for name in ("genes", "cells")}  # Keras 3.12 takes no others
        x = keras.layers.Concatenate()([inputs["genes"], inputs["cells"]])
        preprocessing = keras.Model(inputs, {"x": x})
        features = {"x": keras.Input((3,), name="x")}
        network = keras.Model(features, keras.layers.Dense(3, use_bias=False)(features["x"]))
        network.set_weights([weights])
        export(
            Ensemble.of([Member(preprocessing, [network])]),
            root,
            spec=SPEC,
            target_names=["z", "a", "m"],
            metadata={"simulated": True},
        )
    return root


@pytest.fixture
def features(tmp_path):
    frame = pd.DataFrame({"sig_id": ["s1", "s2", "s3"], "cp_type": ["trt_cp", "ctl_vehicle", "trt_cp"]})
    frame["cp_time"], frame["cp_dose"] = 24, "D1"
    frame["g-0"], frame["g-1"], frame["c-0"] = [0.0, 1.0, 2.0], [-1.0, 0.0, 1.0], [0.5, 0.5, 0.5]
    frame.to_csv(tmp_path / "features.csv", index=False)
    return tmp_path / "features.csv"


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["moa-tf", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def test_latest_version_of_a_root_or_the_version_named(root, features, tmp_path, monkeypatch, capsys):
    out, figures = tmp_path / "new" / "predictions.csv", tmp_path / "figures.json"
    assert call(monkeypatch, "predict", root, features, out, "--json", figures) == 0
    table = pd.read_csv(out)
    assert table.columns.tolist() == ["sig_id", "z", "a", "m"]
    logits = np.array([[0, -1, 0.5], [0, 0, 0], [2, 1, 0.5]])
    expected = np.where([[True], [False], [True]], 1 / (1 + np.exp(-logits)), 0)
    np.testing.assert_allclose(table.iloc[:, 1:], expected, atol=1e-6)
    values = json.loads(figures.read_text())
    assert (values["signatures"], values["controls"], values["targets"]) == (3, 1, 3)
    assert values["model"] == str(root / "2")
    printed = capsys.readouterr()
    assert str(out) in printed.out
    assert "simulated" in printed.out

    assert call(monkeypatch, "predict", root / "1", features, out, "--batch-size", 1) == 0
    assert (pd.read_csv(out).iloc[[0, 2], 1:] == 0.5).all(axis=None)


def test_bad_input_is_one_line_and_status_2_and_leaves_no_file(root, features, tmp_path, monkeypatch, capfd):
    frame = pd.read_csv(features)
    bad = tmp_path / "bad.csv"
    for change, words in (
        ({"g-1": [0.0, np.nan, 0.0]}, ["bad.csv", "g-1", "row 2"]),
        ({"cp_type": ["trt_cp", "x", "trt_cp"]}, ["bad.csv", "cp_type", "'x'"]),
        ({"g-1": None}, ["bad.csv", "g-1", "missing"]),
    ):
        frame.assign(**change).dropna(axis=1, how="all").to_csv(bad, index=False)
        assert call(monkeypatch, "predict", root, bad, tmp_path / "out.csv") == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert all(word in line for word in words)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "features.csv"]


def test_wrong_calls(root, features, tmp_path, monkeypatch, capsys):
    for arguments, words in (
        ([tmp_path / "none", features, tmp_path / "out.csv"], "no such directory"),
        ([tmp_path, features, tmp_path / "out.csv"], "holds no SavedModel"),
        ([root, tmp_path / "none.csv", tmp_path / "out.csv"], "no such file"),
        ([root, features, tmp_path / "out.tsv"], "expected a name that ends in"),
        ([root, features, tmp_path / "out.csv", "--batch-size", "0"], "--batch-size"),
        ([root, features], "Missing argument"),
    ):
        assert call(monkeypatch, "predict", *arguments) == 2
        printed = capsys.readouterr()
        assert words in printed.err
        assert printed.out == ""
        assert "Traceback" not in printed.err


def test_a_directory_of_parquet_files_is_a_table(root, features, tmp_path, monkeypatch, capsys):
    frame, parts = pd.read_csv(features), tmp_path / "features.parquet"
    parts.mkdir()
    for i, name in enumerate(("part-2", "part-10", "part-11")):
        frame[i : i + 1].to_parquet(parts / f"{name}.parquet")
    (parts / "_SUCCESS").touch()
    assert call(monkeypatch, "predict", root, features, tmp_path / "one.csv") == 0
    assert call(monkeypatch, "predict", root, parts, tmp_path / "parts.csv") == 0
    one, several = pd.read_csv(tmp_path / "one.csv"), pd.read_csv(tmp_path / "parts.csv")
    pd.testing.assert_frame_equal(several, one, rtol=0, atol=1e-6)  # Other batches, other last bits.
    capsys.readouterr()
    assert call(monkeypatch, "predict", root, parts, parts / "out.parquet") == 2
    assert "out.parquet: is within the features table" in capsys.readouterr().err
    assert not (parts / "out.parquet").exists()
    assert call(monkeypatch, "predict", root, tmp_path, tmp_path / "out.csv") == 2
    assert "is no file, expected one, or a directory of Parquet files" in capsys.readouterr().err


def test_columns_not_used_are_said(root, features, tmp_path, monkeypatch, capsys):
    pd.read_csv(features).assign(plate=1, well="a").to_csv(features, index=False)
    assert call(monkeypatch, "predict", root, features, tmp_path / "out.csv") == 0
    assert "features.csv: 2 columns are not used (plate, well)\n" in capsys.readouterr().err
    pd.read_csv(features).rename(columns={"g-1": "g_1"}).to_csv(features, index=False)
    assert call(monkeypatch, "predict", root, features, tmp_path / "out.csv") == 2
    assert "error: features.csv: 1 column looks like what is expected under another name ('g_1' for g-1)" in (
        capsys.readouterr().err
    )


def test_links_and_fifos_are_written_through(root, features, tmp_path, monkeypatch):
    (tmp_path / "link.csv").symlink_to("real.csv")
    os.mkfifo(tmp_path / "fifo.csv")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "fifo.csv").read_text()))
    reader.start()
    for name in ("link.csv", "fifo.csv"):
        assert call(monkeypatch, "predict", root, features, tmp_path / name) == 0
    reader.join(10)
    assert got == [(tmp_path / "real.csv").read_text()]
    assert (tmp_path / "link.csv").is_symlink()
    assert pd.read_csv(tmp_path / "real.csv")["sig_id"].tolist() == ["s1", "s2", "s3"]


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.parquet"])
def test_a_full_disk_is_one_line_and_leaves_nothing(root, features, tmp_path, monkeypatch, capfd, name):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", disk]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    frame = pd.concat([pd.read_csv(features)] * 4000, ignore_index=True)
    frame["sig_id"] = [f"{hash(i * 0.37):x}" for i in range(len(frame))]
    frame["g-0"] = np.random.default_rng(0).normal(size=len(frame))
    frame.to_parquet(tmp_path / "long.parquet")
    try:
        assert call(monkeypatch, "predict", root, tmp_path / "long.parquet", disk / "new" / name) == 2
        assert capfd.readouterr().err == (
            f"error: {disk / 'new' / name}: cannot be written (No space left on device)\n"
        )
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_cannot_be_written_is_found_before_the_model_is_loaded(features, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    for out, json_file in (
        (tmp_path / "file" / "out.csv", tmp_path / "j.json"),
        (tmp_path / "out.csv", tmp_path / "file" / "j.json"),
        (tmp_path / "out.csv", features),
        (tmp_path / "out.csv", tmp_path / "out.csv"),
    ):
        # There is no model, which is found after.
        assert call(monkeypatch, "predict", tmp_path / "none", features, out, "--json", json_file) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "none" not in line
        assert "cannot be written" in line or "expected another file" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.csv", "file"]
