"""From a finished run to a versioned SavedModel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moa_tf.ensemble.opening import OpenRun, open_run
from moa_tf.errors import InputError
from moa_tf.models.base import Member, References
from moa_tf.serving.export import export
from moa_tf.serving.versions import REFERENCES, load_metadata, versions
from moa_tf.training.run import Run

_TOLD = ("split", "groups", "caveat", "reliability", "mechanisms")
"""What of a run's metrics travels along beside the figures."""


def export_run(directory: Path, root: Path, reference: bool = True) -> Path:
    """Writes the mean of a run's models, or its refitted ones where it has them, to `root/<next version>/`.

    Of a blend its components' models, each so, in one SavedModel; those without Keras networks are left out, and the
    other weights brought to sum to 1.

    Args:
        directory: the run.
        root: directory of the versions.
        reference: name the drugs whose signatures the models hold, where they hold any, in a file beside the model.

    Returns:
        The new version's directory.

    Raises:
        InputError: no run, a part of it that is not finished, a damaged file, shuffled labels, or `root` cannot be
            written.
    """
    opened = open_run(directory)
    description = opened.description
    if description["settings"].get("shuffle_labels"):
        raise InputError(f"{directory}: was trained on shuffled labels, expected a run to be used")
    ensemble = opened.ensemble
    metrics = opened.run.metrics()
    assets = {}
    if reference and opened.has_references:
        named = reference_table(opened.references(), description["targets"])
        assets[REFERENCES] = named.to_csv(index=False)
    return export(
        ensemble,
        Path(root),
        spec=opened.spec,
        target_names=description["targets"],
        metadata={
            "model": description["model"],
            "ensemble": _describe_blend(opened)
            if opened.is_blend
            else f"mean probability of {_what(opened.run, ensemble.components[0])}",
            "fingerprint": description["data"]["fingerprint"],
            "simulated": description["data"]["simulated"],
            "data": {"signatures": description["data"]["signatures"]},
            "metrics": metrics["overall"],
            # A run from before these were measured has not all.
            **{key: metrics[key] for key in _TOLD if key in metrics},
            "calibration": _calibration(opened),
            **({"components": _components(opened), "left_out": opened.left_out} if opened.is_blend else {}),
            "ranking": opened.run.ranking(),
            "settings": description["settings"],
            "training_versions": description["versions"],
            "run_models": metrics["models"],
        },
        explainer=opened.explainer(),
        assets=assets,
    )


def export_finished(run: Path, root: Path, reference: bool = True) -> Path:
    """As `export_run`, whatever Keras runs on here: a SavedModel is TensorFlow's, in a process of its own if need be.

    Raises:
        InputError: as there.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
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


def reference_table(references: References, targets: Sequence[str]) -> pd.DataFrame:
    """`drug`, and its `mechanisms`, with a semicolon between two."""
    names = np.asarray(targets, object)
    mechanisms = ["; ".join(names[row]) for row in references.labels]
    return pd.DataFrame({"drug": list(references.ids), "mechanisms": mechanisms})


def exported_version(directory: Path, root: Path, reference: bool = True) -> Path | None:
    """The version below `root` that these very models of the run were exported to, if there is one.

    One that names drugs, or does not, against `reference` is another.
    """
    opened = open_run(directory)
    models = opened.run.digest()
    named = reference and opened.has_references
    for _, version in sorted(versions(root).items(), reverse=True):
        try:
            same = load_metadata(version).get("run_models") == models
            if same and (version / "assets" / REFERENCES).exists() == named:
                return version
        except InputError:
            continue
    return None


def _what(run: Run, members: Sequence[Member]) -> str:
    networks = sum(len(member.networks) for member in members)
    if run.description["plan"]["refit"]:
        return f"{networks} networks trained on all rows"
    planned = run.metrics()["folds_planned"]
    part = f"{len(members)} of {planned}" if len(members) < planned else f"{planned}"
    return f"{networks} networks of {part} cross-validation folds"


def _components(opened: OpenRun) -> list[dict[str, Any]]:
    """Of each exported component what it is and its weight, the mean over targets where each has its own."""
    weights = opened.combination.weights
    return [
        {
            "model": run.description["model"],
            "weight": float(weight.mean()),
            **({"target_weights": weight} if weight.ndim else {}),
            "networks": _what(run, members),
            "run_models": run.digest(),
        }
        for run, weight, members in zip(opened.components, weights, opened.ensemble.components, strict=True)
    ]


def _describe_blend(opened: OpenRun) -> str:
    parts = [f"{part['model']} ({part['weight']:.3f}: {part['networks']})" for part in _components(opened)]
    method = _calibration(opened)
    text = f"blend of {'logits' if opened.combination.space == 'logit' else 'probabilities'} of {', '.join(parts)}"
    text += f", calibrated by {method}" * bool(method)
    return text + f"; without {', '.join(opened.left_out)}" * bool(opened.left_out)


def _calibration(opened: OpenRun) -> str:
    """The method, or nothing."""
    return opened.combination.calibration.method if opened.combination.calibration else ""
