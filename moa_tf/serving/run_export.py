"""From a finished run to a versioned SavedModel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moa_tf.data.schema import SignatureSpec
from moa_tf.errors import InputError
from moa_tf.models.base import get_family
from moa_tf.serving.export import export
from moa_tf.serving.versions import load_metadata, versions
from moa_tf.training.network_learner import load_members
from moa_tf.training.run import Run


def export_run(directory: Path, root: Path) -> Path:
    """Writes the mean of a run's models, or its refitted ones where it has them, to `root/<next version>/`.

    Args:
        directory: the run.
        root: directory of the versions.

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
    )


def exported_version(directory: Path, root: Path) -> Path | None:
    """The version below `root` that these very models of the run were exported to, if there is one."""
    models = Run(directory).digest()
    for _, version in sorted(versions(root).items(), reverse=True):
        try:
            if load_metadata(version).get("run_models") == models:
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
