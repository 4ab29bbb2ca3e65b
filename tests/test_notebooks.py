"""The notebooks: as they are kept, and as they run from top to bottom on a CPU, without data."""

import json
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

from moa_tf.serving.export import load_metadata

ROOT = Path(__file__).parents[1]
COLAB, KAGGLE = (ROOT / "notebooks" / f"moa_tf_{name}.ipynb" for name in ("colab", "kaggle"))


@pytest.fixture(params=[COLAB, KAGGLE], ids=["colab", "kaggle"])
def notebook(request):
    return nbformat.read(request.param, as_version=nbformat.NO_CONVERT)


def test_is_of_the_format(notebook):
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)  # Cells have ids.
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_is_kept_without_what_a_run_leaves(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) >= 5
    for cell in cells:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert not cell.metadata


@pytest.mark.parametrize(
    ("file", "label", "start"),
    [
        (COLAB, "Open in Colab", "https://colab.research.google.com/github/"),
        (KAGGLE, "Open in Kaggle", "https://kaggle.com/kernels/welcome?src=https://github.com/"),
    ],
    ids=["colab", "kaggle"],
)
def test_badge_opens_this_very_notebook_of_the_repository_that_is_installed(file, label, start):
    cells = nbformat.read(file, as_version=4).cells
    settings = next(cell.source for cell in cells if cell.cell_type == "code")
    repository = re.search(r'^REPOSITORY = "https://github.com/([^"]+)"', settings, re.MULTILINE)[1]
    address = f"({start}{repository}/blob/main/{file.relative_to(ROOT).as_posix()})"
    badge = cells[0].source.splitlines()[0]
    assert badge.startswith(f"[![{label}](https://")
    assert badge.endswith(address)
    assert address in (ROOT / "README.md").read_text(encoding="utf-8")


def execute(file, folder, monkeypatch):
    """Runs all cells in `folder` with MOA_TF_QUICK=1, in this environment.

    Returns:
        What each code cell printed, and the pictures that were shown.
    """
    monkeypatch.setenv("MOA_TF_QUICK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("IPYTHONDIR", str(folder / ".ipython"))  # Nothing of the user's own settings.
    monkeypatch.setenv("JUPYTER_PATH", str(Path(sys.prefix, "share", "jupyter")))
    notebook = nbformat.read(file, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where).execute()
    printed, pictures = [], []
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        printed.append("".join(output.text for output in cell.outputs if output.output_type == "stream"))
        pictures += [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
    return printed, pictures


@pytest.mark.slow
def test_colab_compares_blends_exports_predicts_and_explains(tmp_path, monkeypatch):
    printed, pictures = execute(COLAB, tmp_path, monkeypatch)
    assert printed[0].startswith("MOA_TF_QUICK=1: 400 simulated signatures, not 3000")
    assert len(printed[0].splitlines()) == 1
    results = tmp_path / "results-sample-400"
    board = pd.read_csv(results / "comparison" / "leaderboard.csv", index_col="model")
    assert dict(board["kind"]) == {
        "linear": "shallow",
        "connectivity": "shallow",
        "mlp": "deep",
        "blend": "blend",
    }
    assert (board["log_loss_treated_low"] < board["log_loss_treated"]).all()
    assert (board["log_loss_treated"] < board["log_loss_treated_high"]).all()
    assert (board["macro_auroc"] > 0.6).all()  # They have learnt.
    assert len(pictures) == 2
    assert len(set(pictures)) == 2

    sample = pd.read_csv(tmp_path / "sample-400" / "sample_submission.csv", index_col="sig_id")
    version = results / "saved_models" / "blend" / "1"
    assert (version / "saved_model.pb").is_file()
    metadata = load_metadata(version)
    assert metadata["targets"] == list(sample.columns)
    assert metadata["simulated"]
    predictions = pd.read_csv(results / "predictions.csv", index_col="sig_id")
    check_predictions(predictions, sample, tmp_path / "sample-400")
    explained = pd.read_csv(results / "explained" / "mechanisms.csv")
    assert set(explained["mechanism"]) == set(sample.columns)
    assert explained["feature"].str.fullmatch(r"[gc]-\d+|cp_\w+").all()


@pytest.mark.slow
def test_kaggle_writes_a_submission_in_the_competition_s_layout(tmp_path, monkeypatch):
    printed, _ = execute(KAGGLE, tmp_path, monkeypatch)
    assert printed[0].startswith("MOA_TF_QUICK=1: 400 simulated signatures, not 3000")
    data = tmp_path / "sample-400"
    sample = pd.read_csv(data / "sample_submission.csv", index_col="sig_id")
    check_predictions(pd.read_csv(tmp_path / "submission.csv", index_col="sig_id"), sample, data)
    first = (tmp_path / "submission.csv").read_text().splitlines()[0]
    assert first == (data / "sample_submission.csv").read_text().splitlines()[0]
    assert "FAILED" not in printed[-1]
    assert printed[-1].count("ok  ") == 6
    run = json.loads((tmp_path / "runs" / "mlp-sample-400" / "metrics.json").read_text())
    assert run["folds_planned"] == len(run["folds"]) == 2


def check_predictions(predictions, sample, data):
    """Rows and columns in the order of the sample submission; 0 for controls alone; not the same for all."""
    assert list(predictions.columns) == list(sample.columns)
    assert list(predictions.index) == list(sample.index)
    types = pd.read_csv(data / "test_features.csv", index_col="sig_id")["cp_type"].loc[predictions.index]
    treated = predictions[types == "trt_cp"]
    assert len(treated) == 74
    assert not predictions[types == "ctl_vehicle"].to_numpy().any()
    assert ((treated > 0) & (treated < 1)).to_numpy().all()
    assert np.ptp(treated.to_numpy(), axis=0).min() > 0.05
