"""From a finished run to a versioned SavedModel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moa_tf.data.schema import SignatureSpec
from moa_tf.errors import InputError
from moa_tf.models.base import References, get_family
from moa_tf.serving.export import export
from moa_tf.serving.versions import REFERENCES, load_metadata, versions
from moa_tf.training.network_learner import load_members
from moa_tf.training.run import Run


def export_run(directory: Path, root: Path, reference: bool = True) -> Path:
    """Writes the mean of a run's models, or its refitted ones where it has them, to `root/<next version>/`.

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
    run = Run(directory)
    description = run.description
    if description["settings"].get("shuffle_labels"):
        raise InputError(f"{directory}: was trained on shuffled labels, expected a run to be used")
    members = load_members(directory)
    metrics = run.metrics()
    family = get_family(description["model"])
    assets = {}
    if reference and family.references is not None:
        named = family.references(members)
        assets[REFERENCES] = reference_table(named, description["targets"]).to_csv(index=False)
    return export(
        members,
        Path(root),
        spec=SignatureSpec.from_dict(description["panel"]),
        target_names=description["targets"],
        metadata={
            "model": family.name,
            "ensemble": f"mean probability of {_what(description, members, metrics)}",
            "fingerprint": description["data"]["fingerprint"],
            "simulated": description["data"]["simulated"],
            "metrics": metrics["overall"],
            "split": metrics["split"],
            **{key: metrics[key] for key in ("groups",) if key in metrics},
            "settings": description["settings"],
            "training_versions": description["versions"],
            "run_models": metrics["models"],
        },
        explainer=family.explain(members),
        assets=assets,
    )


def reference_table(references: References, targets: Sequence[str]) -> pd.DataFrame:
    """`drug`, and its `mechanisms`, with a semicolon between two."""
    names = np.asarray(targets, object)
    mechanisms = ["; ".join(names[row]) for row in references.labels]
    return pd.DataFrame({"drug": list(references.ids), "mechanisms": mechanisms})


def exported_version(directory: Path, root: Path, reference: bool = True) -> Path | None:
    """The version below `root` that these very models of the run were exported to, if there is one.

    One that names drugs, or does not, against `reference` is another.
    """
    run = Run(directory)
    models = run.digest()
    named = reference and get_family(run.description["model"]).references is not None
    for _, version in sorted(versions(root).items(), reverse=True):
        try:
            same = load_metadata(version).get("run_models") == models
            if same and (version / "assets" / REFERENCES).exists() == named:
                return version
        except InputError:
            continue
    return None


def _what(description: dict[str, Any], members: list[Any], metrics: dict[str, Any]) -> str:
    networks = sum(len(member.networks) for member in members)
    if description["plan"]["refit"]:
        return f"{networks} networks trained on all rows"
    planned = metrics["folds_planned"]
    part = f"{len(members)} of {planned}" if len(members) < planned else f"{planned}"
    return f"{networks} networks of {part} cross-validation folds"
