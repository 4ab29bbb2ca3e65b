"""What a run directory holds to be exported or explained: the models of one training, or of a blend's components."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moa_tf.data.schema import SignatureSpec
from moa_tf.ensemble.combination import Combination, read_combination
from moa_tf.ensemble.ensemble import Ensemble
from moa_tf.errors import InputError
from moa_tf.models.base import Explainer, Family, References, get_family, importance_columns
from moa_tf.training.members import check_networks, has_networks, load_members
from moa_tf.training.run import Run

COMPONENTS = "components"
"""The key of `run.json` that makes a run a blend: `path`, `model`, `weight` and the models' `digest` of each."""
COMBINATION = "combination"
"""The key beside it: what `Combination.to_dict` says but for the weights."""


@dataclass(frozen=True)
class OpenRun:
    """A run whose networks can be had.

    Attributes:
        run: the directory itself.
        description: what its `run.json` says.
        components: the runs that hold the networks; the run itself where it is no blend.
        combination: of these.
        left_out: models of a blend's components that have weight but no Keras networks.
    """

    run: Run
    description: dict[str, Any]
    components: tuple[Run, ...]
    combination: Combination
    left_out: tuple[str, ...] = ()

    @property
    def spec(self) -> SignatureSpec:
        """The panel."""
        return SignatureSpec.from_dict(self.description["panel"])

    @property
    def is_blend(self) -> bool:
        """Whether the networks are other runs'."""
        return COMPONENTS in self.description

    @cached_property
    def families(self) -> list[Family]:
        """Of each component."""
        return [get_family(component.description["model"]) for component in self.components]

    @cached_property
    def ensemble(self) -> Ensemble:
        """The networks, loaded.

        Raises:
            InputError: a component without networks, not finished, or damaged.
        """
        return Ensemble(
            [load_members(component.directory) for component in self.components], self.combination
        )

    def explainer(self) -> Explainer:
        """The family's own, or of a blend `Ensemble.explain`."""
        ensemble = self.ensemble  # says so where there are no networks
        explainers = [
            family.explain(members)
            for family, members in zip(self.families, ensemble.components, strict=True)
        ]
        if not self.is_blend:
            return explainers[0]
        return ensemble.explain(explainers, len(importance_columns(self.spec)))

    @property
    def has_references(self) -> bool:
        """Whether an explanation names drugs; a blend's does not."""
        return not self.is_blend and self.families[0].references is not None

    def references(self) -> References:
        """The drugs that an explanation names."""
        return self.families[0].references(self.ensemble.components[0])


def open_run(directory: Path) -> OpenRun:
    """Finds what a run holds; the networks are loaded when they are asked for.

    Raises:
        InputError: no run; or of a blend's components one is missing, has other models than were blended, or none has
            networks.
    """
    run = Run(directory)
    description = run.description
    if COMPONENTS not in description:
        check_networks(run)
        return OpenRun(run, description, (run,), Combination(np.ones(1)))
    weights = [component["weight"] for component in description[COMPONENTS]]
    combination = read_combination({**description[COMBINATION], "weights": weights})
    counted = [place for place, weights in enumerate(combination.weights) if (weights > 0).any()]
    runs = {place: _component(run, description[COMPONENTS][place]) for place in counted}
    kept = [place for place in counted if has_networks(runs[place].description)]
    if not kept:
        raise InputError(f"{directory}: none of the blended runs has Keras networks, expected one that does")
    return OpenRun(
        run,
        description,
        tuple(runs[place] for place in kept),
        combination.of(kept),
        tuple(description[COMPONENTS][place]["model"] for place in counted if place not in kept),
    )


def _component(blend: Run, component: dict[str, Any]) -> Run:
    run = Run(Path(os.path.normpath(blend.directory / component["path"])))
    try:
        digest = run.digest()
    except InputError as error:
        raise InputError(f"{blend.directory}: was blended of a run that is not there now: {error}") from None
    if digest != component["digest"]:
        raise InputError(
            f"{blend.directory}: {run.directory} holds other models than were blended; blend again, or restore them"
        )
    return run


def describe_blend(blend: Path, runs: Sequence[Run], combination: Combination) -> dict[str, Any]:
    """What `run.json` of a blend in `blend` says of its components; those that lie beside it are named from there."""
    values = combination.to_dict()
    home = blend.resolve().parent
    described = []
    for run, weight in zip(runs, values.pop("weights"), strict=True):
        path = run.directory.resolve()
        beside = path.is_relative_to(home)
        described.append(
            {
                "path": os.path.relpath(path, blend.resolve()) if beside else str(path),
                "model": run.description["model"],
                "weight": weight,
                "digest": run.digest(),
            }
        )
    return {COMPONENTS: described, COMBINATION: values}
