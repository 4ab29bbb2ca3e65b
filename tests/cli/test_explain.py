import os
import sys

import numpy as np
import pandas as pd
import pytest

from moa_tf.cli.main import main
from moa_tf.data.schema import SignatureSpec
from moa_tf.models.base import Member

SPEC = SignatureSpec(("g-0", "g-1", "g-2"), (), ())
TARGETS = ("[/x]", r"$b\frac$")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Takes |g-i| for the importance, and names that mean something to rich and to matplotlib."""
    import keras
    import tensorflow as tf

    from moa_tf.ensemble.ensemble import Ensemble
    from moa_tf.serving.export import export

    inputs = {"genes": keras.Input((3,), name="genes")}
    preprocessing = keras.Model(inputs, {"x": keras.layers.Rescaling(1.0)(inputs["genes"])})
    features = {"x": keras.Input((3,), name="x")}
    network = keras.Model(features, keras.layers.Dense(2)(features["x"]))

    def explainer(inputs):
        size = tf.abs(inputs["genes"])
        share = size / tf.reduce_sum(size, 1, keepdims=True)
        return {"importance": share, "probabilities": tf.ones_like(size[:, :2]) / 2}

    root = tmp_path_factory.mktemp("saved_models") / "model"
    return export(
        Ensemble.of([Member(preprocessing, [network])]), root, spec=SPEC, target_names=TARGETS,
        metadata={"model": "tabnet"}, explainer=explainer,
    )  # fmt: skip


@pytest.fixture
def features(tmp_path):
    frame = pd.DataFrame({"sig_id": ["a", "b"], "g-0": [1.0, 2.0], "g-1": [1.0, 0.0], "g-2": [2.0, 2.0]})
    frame.to_csv(tmp_path / "features.csv", index=False)
    return tmp_path / "features.csv"


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["moa-tf", "explain", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def test_names_are_text_and_genes_of_one_symbol_are_apart(model, features, tmp_path, monkeypatch, capsys):
    (tmp_path / "genes.csv").write_text("column,symbol\ng-0,[final]\ng-1,[final]\ng-9,X\n")
    out = tmp_path / "new" / "[/x]"
    assert call(monkeypatch, model, features, out, "--genes", tmp_path / "genes.csv") == 0
    printed = capsys.readouterr()
    assert printed.err == f"note: {tmp_path / 'genes.csv'}: 1 columns are not the model's (g-9), ignored\n"
    assert f"Importance over 2 signatures ({out})" in printed.out
    rows = [line.split() for line in printed.out.splitlines()]
    assert [row for row in rows if row[:1] == ["[final]"]] == [
        ["[final]", "g-0", "0.375"],
        ["[final]", "g-1", "0.125"],
    ]
    table = pd.read_csv(out / "importance.csv")
    assert table["feature"].tolist() == ["g-2", "g-0", "g-1"]
    np.testing.assert_allclose(table["importance"], [0.5, 0.375, 0.125])
    assert (out / "mechanisms.png").read_bytes()[:4] == b"\x89PNG"


def test_a_directory_of_parquet_files_is_a_table(model, features, tmp_path, monkeypatch):
    frame, parts = pd.read_csv(features), tmp_path / "features.parquet"
    parts.mkdir()
    for i in range(2):
        frame[i : i + 1].to_parquet(parts / f"part-{i}.parquet")
    assert call(monkeypatch, model, parts, tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "importance.csv")
    np.testing.assert_allclose(table["importance"], [0.5, 0.375, 0.125])


def test_all_of_it_reaches_the_disk_before_it_has_its_name(model, features, tmp_path, monkeypatch):
    """Each call is made as it is, and written down with the file that it is about."""
    calls = []
    fsync = os.fsync

    def record(handle):
        path = os.readlink(f"/proc/self/fd/{handle}")
        calls.append((os.path.basename(path), (tmp_path / "out").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    assert call(monkeypatch, model, features, tmp_path / "out") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {name for name, named in calls if not named} == names | {"results"}
    assert [name for name, named in calls if named] == [tmp_path.name]


def test_what_cannot_be_written_is_found_before_the_model_is_loaded(features, tmp_path, monkeypatch, capsys):
    (tmp_path / "dangling").symlink_to("nowhere")
    for out, words in (
        (features / "out", "cannot be written"),
        (tmp_path, "is there already"),
        (tmp_path / "dangling", "is no directory"),
        ("/proc/out", "cannot be written"),
    ):
        assert call(monkeypatch, tmp_path / "none", features, out) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "features.csv"]
