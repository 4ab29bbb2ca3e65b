"""`moa-tf export`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from moa_tf.atomic import check_directory
from moa_tf.cli.options import LocalPath, json_option, reference_option
from moa_tf.cli.output import print_table, write_json
from moa_tf.cli.startup import import_tensorflow
from moa_tf.errors import InputError


@click.command()
@click.argument("run", type=LocalPath())
@click.argument("saved_model_root", type=LocalPath(exported=True))
@reference_option
@json_option
def export(run: Path, saved_model_root: Path, reference: bool, json_file: Path | None) -> None:
    """Exports a finished run as a new version of a SavedModel.

    The mean of the run's networks, or of those trained on all rows if it has any, goes with its preprocessing
    to SAVED_MODEL_ROOT/VERSION/, the number after the highest there. It appears whole or not at all, so the
    root may be one that TensorFlow Serving watches.

    \b
    Example:
      moa-tf export runs/mlp-20261122-103000 saved_models/mlp
    """
    check_directory(saved_model_root)
    import_tensorflow()
    from moa_tf.serving.export import load_metadata
    from moa_tf.serving.run_export import export_run

    version = export_run(run, saved_model_root, reference)
    metadata = load_metadata(version)
    size = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
    rows = [
        ["SavedModel", version],
        ["model", f"{metadata['model']}, {metadata['ensemble']}"],
        ["targets", len(metadata["targets"])],
        ["signatures", ", ".join(metadata["signatures"])],
        ["size", f"{size / 1e6:,.1f} MB"],
    ]
    if metadata["simulated"]:
        rows.append(["trained on", "simulated data"])
    print_table("Export", ["", ""], rows)
    if json_file:
        write_json(json_file, {"saved_model": version, "bytes": size, **metadata})


def export_finished(run: Path, root: Path, reference: bool = True) -> Path:
    """As `export_run`, whatever Keras runs on here: a SavedModel is TensorFlow's, in a process of its own if need be.

    Raises:
        InputError: as there.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        from moa_tf.serving.run_export import export_run

        return export_run(run, root, reference)
    code = "from moa_tf.cli.main import main; main()"
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder, "export.json")
        options = ["--json", str(figures), *["--no-reference"] * (not reference)]
        # On the CPU: the GPUs' memory is this process's.
        done = subprocess.run(
            [sys.executable, "-c", code, "export", str(run), str(root), *options],
            env=os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 2:
            lines = done.stderr.strip().splitlines()
            raise InputError("\n".join(line.removeprefix("error: ") for line in lines))
        if done.returncode:
            raise RuntimeError(f"the export ended with status {done.returncode}: {done.stderr}")
        return Path(json.loads(figures.read_text(encoding="utf-8"))["saved_model"])
