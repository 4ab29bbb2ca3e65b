"""Importance of features over a table, as a function."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moa_tf.api.predict import start_tensorflow
from moa_tf.atomic import check_directory, publish_directory, writing
from moa_tf.config import require
from moa_tf.errors import InputError
from moa_tf.paths import local_path
from moa_tf.startup import start
from moa_tf.training.reporter import log
from moa_tf.training.run import DESCRIPTION

if TYPE_CHECKING:
    import pandas as pd

    from moa_tf.data.schema import Signatures, SignatureSpec
    from moa_tf.explanation.importance import ImportanceSums
    from moa_tf.explanation.sources import Source


@dataclass(frozen=True)
class Explanation:
    """What a model looks at.

    Attributes:
        directory: where the tables and plots are.
        signatures: how many were explained.
        importance: `feature`, `name`, `importance` (mean share over signatures), most important first.
        mechanisms: the top features of each mechanism, see `moa_tf.explanation.importance.mechanism_table`.
    """

    directory: Path
    signatures: int
    importance: pd.DataFrame
    mechanisms: pd.DataFrame


@writing()
def explain(
    model: str | os.PathLike[str],
    features: pd.DataFrame | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    genes: str | os.PathLike[str] | None = None,
    top: int = 10,
    compare: tuple[str, str] | None = None,
    targets: str | os.PathLike[str] | None = None,
    batch_size: int = 1024,
    progress: Callable[[int], None] = lambda rows: None,
    tell: Callable[[str], None] = log,
) -> Explanation:
    """Says which features a model looks at, as `moa-tf explain` does; names and defaults are that command's.

    Args:
        model: a run's directory or an exported model.
        features: a table of signatures, as a file or a DataFrame.
        out: a new directory, which gets the tables and plots.
        genes: gene mapping, `g-*` to symbol or Entrez id.
        top: features a signature.
        compare: two mechanisms whose mean images are drawn (DeepInsight).
        targets: labels that say which signatures have them; by default as predicted.
        batch_size: signatures explained at once.
        progress: is called with the number of rows just done.
        tell: gets each line that the user should know.

    Returns:
        What is in `out`, but for each signature's own features, `signatures.parquet`.

    Raises:
        InputError: one line for each fault of the call or the data. A ValueError.
    """
    from moa_tf.data.read import read_targets
    from moa_tf.explanation.symbols import read_gene_names

    path, out = local_path("model", model), local_path("out", out)
    table = _open(features)
    if out.exists():
        raise InputError(f"{out}: is there already, expected the name of a new directory")
    check_directory(out)
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    if targets and not compare:
        raise InputError(f"--targets {targets}: expected only with --compare")
    names = read_gene_names(local_path("genes", genes)) if genes else {}
    known = read_targets(local_path("targets", targets), tell) if targets else None
    if (path / DESCRIPTION).is_file():
        start()  # a run's networks, unlike an exported model's, are Keras's
    start_tensorflow()
    from moa_tf.explanation.importance import (
        explain_table,
        mechanism_table,
        overall_table,
        plot_mechanisms,
    )
    from moa_tf.explanation.mean_images import MeanImages
    from moa_tf.explanation.neighbours import NeighbourTable
    from moa_tf.explanation.sources import open_source

    source = open_source(path)
    unknown = [column for column in names if column not in source.columns]
    if unknown:
        shown = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        tell(f"note: {genes}: {len(unknown)} columns are not the model's ({shown}), ignored")
    if compare and source.pixels is None:
        raise InputError(f"--compare: {path} has no images, expected a DeepInsight")
    images = MeanImages(compare, source.targets, known) if compare else None
    progress(0)
    with publish_directory(out) as results:
        near = None
        if source.references is not None:
            near = NeighbourTable(results / "neighbours.csv", source.references, source.targets)

        def explain_part(part: Signatures) -> tuple[np.ndarray, np.ndarray]:
            explained = source.explain(part)
            if images is not None and explained.features is not None:
                images.add(part, explained.probabilities, explained.features)
            if near is not None and explained.neighbours is not None and explained.similarity is not None:
                near.add(part, explained.probabilities, explained.neighbours, explained.similarity)
            return explained.importance, explained.probabilities

        sums = explain_table(
            explain_part,
            table(source.spec, batch_size, tell),
            source.columns,
            source.targets,
            results / "signatures.parquet",
            top=top,
            names=names,
            progress=progress,
        )
        overall, mechanisms = overall_table(sums, names), mechanism_table(sums, top, names)
        overall.to_csv(results / "importance.csv", index=False)
        mechanisms.to_csv(results / "mechanisms.csv", index=False)
        plot_mechanisms(sums, results / "mechanisms.png", names=names)
        if source.pixels is not None:
            _draw_maps(source, sums, names, top, results)
        if images is not None and source.pixels is not None:
            images.draw(source.pixels, source.image_size, results / "mean_images.png")
    return Explanation(out, sums.rows, overall, mechanisms)


Parts = Callable[["SignatureSpec", int, Callable[[str], None]], "Iterable[Signatures]"]
"""(panel, rows, tell) -> the table in pieces of so many rows."""


def _open(features: pd.DataFrame | str | os.PathLike[str]) -> Parts:
    from moa_tf.data.frames import iter_frame
    from moa_tf.data.opening import check_table
    from moa_tf.data.read import iter_features

    if not isinstance(features, (str, os.PathLike)):
        return lambda spec, rows, tell: iter_frame(features, spec, rows, tell)
    path = local_path("features", features)
    check_table(path)
    return lambda spec, rows, tell: iter_features(path, spec, rows, tell)


def _draw_maps(
    source: Source, sums: ImportanceSums, names: dict[str, str], top: int, directory: Path
) -> None:
    """The DeepInsight map, and over it the class activation of those mechanisms that are predicted most."""
    from moa_tf.explanation.feature_map_plots import plot_activations, plot_density
    from moa_tf.explanation.figures import save_figure
    from moa_tf.explanation.symbols import label_columns

    assert source.pixels is not None
    save_figure(plot_density(source.pixels, source.image_size), directory / "feature_map.png")
    frequent = [i for i in np.argsort(-sums.weights, kind="stable")[:4] if sums.weights[i] > 0]
    if frequent:
        maps = {source.targets[i]: sums.by_target[i, source.drawn] for i in frequent}
        labels = np.asarray(label_columns(source.columns, names), object)[source.drawn].tolist()
        figure = plot_activations(source.pixels, source.image_size, maps, labels, top, "share", source.grid)
        save_figure(figure, directory / "activation_maps.png")
