"""`moa-tf export`."""

from __future__ import annotations

from pathlib import Path

import click

from moa_tf.atomic import check_directory
from moa_tf.cli.options import LocalPath, json_option, reference_option
from moa_tf.cli.output import print_table, write_json
from moa_tf.startup import import_tensorflow


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
    Examples:
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
