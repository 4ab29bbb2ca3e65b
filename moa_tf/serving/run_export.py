"""From a finished run to a versioned SavedModel."""

from __future__ import annotations

import json
from pathlib import Path

from moa_tf.data.schema import SignatureSpec
from moa_tf.errors import InputError
from moa_tf.explanation.sources import run_explainer
from moa_tf.serving.export import export
from moa_tf.training.run import REFIT, Run, load_members


def export_run(directory: Path, root: Path) -> Path:
    """Writes the mean of a run's models, or its refitted ones where it has them, to `root/<next version>/`.

    Args:
        directory: the run.
        root: directory of the versions.

    Returns:
        The new version's directory.

    Raises:
        InputError: no run, nothing finished in it, a damaged file, or `root` cannot be written.
    """
    run = Run(directory)
    description = run.description
    members = load_members(directory)
    try:
        metrics = json.loads((run.directory / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{run.directory}: no metrics.json; finish the run with --resume") from None
    networks = sum(len(seeds) for _, seeds in members)
    refitted = run.fold(REFIT).exists()
    what = (
        "networks trained on all rows" if refitted else f"networks of {len(members)} cross-validation folds"
    )
    return export(
        members,
        Path(root),
        spec=SignatureSpec.from_dict(description["panel"]),
        target_names=description["targets"],
        metadata={
            "model": description["model"],
            "ensemble": f"mean probability of {networks} {what}",
            "fingerprint": description["data"]["fingerprint"],
            "simulated": description["data"]["simulated"],
            "metrics": metrics["overall"],
            "split": metrics["split"],
            "settings": description["settings"],
            "training_versions": description["versions"],
        },
        explainer=run_explainer(description["model"], members),
    )
