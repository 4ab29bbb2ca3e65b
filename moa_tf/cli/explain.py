"""`moa-tf explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from moa_tf.cli.options import LocalPath, json_option
from moa_tf.cli.output import print_table, row_progress, write_json
from moa_tf.cli.startup import import_tensorflow

if TYPE_CHECKING:
    from moa_tf.data.schema import Signatures
    from moa_tf.explanation.importance import ImportanceSums
    from moa_tf.explanation.sources import Source


@click.command()
@click.argument("model", type=LocalPath(), metavar="RUN_OR_SAVED_MODEL")
@click.argument("features", type=LocalPath())
@click.argument("out", type=LocalPath())
@click.option("--genes", type=LocalPath(), help="Gene mapping .csv: g-i to symbol or Entrez id.")
@click.option(
    "--top", type=click.IntRange(min=1), default=10, show_default=True, help="Features a signature."
)
@click.option(
    "--compare",
    nargs=2,
    metavar="MECHANISM MECHANISM",
    help="Also draw mean_images.png: the mean images of two mechanisms and their difference (DeepInsight).",
)
@click.option(
    "--targets",
    type=LocalPath(),
    help="Labels that say which signatures have the mechanisms of --compare. [default: as predicted]",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=1024, show_default=True)
@json_option
def explain(
    model: Path,
    features: Path,
    out: Path,
    genes: Path | None,
    top: int,
    compare: tuple[str, str] | None,
    targets: Path | None,
    batch_size: int,
    json_file: Path | None,
) -> None:
    """Says which features a model looks at, for each signature, for each mechanism, and in all.

    For a TabNet these are its masks, for DeepInsight its class activation maps, for all others what each feature did
    to the logit of the signature's top mechanism (integrated gradients).

    RUN_OR_SAVED_MODEL is a run's directory or an exported model; FEATURES a table. OUT is a new directory:
    signatures.parquet (each signature's top features), mechanisms.csv, importance.csv, mechanisms.png, and for
    a DeepInsight feature_map.png, activation_maps.png and, with --compare, mean_images.png. Of a model that holds
    the signatures of known drugs, neighbours.csv: those that each prediction comes from.
    Importance is a share: a signature's sums to 1 over the columns.

    \b
    Examples:
      moa-tf explain runs/tabnet test_features.csv explained --genes gene_mapping.csv
      moa-tf explain runs/deepinsight train_features.csv explained \\
        --compare proteasome_inhibitor dna_inhibitor --targets train_targets_scored.csv
    """
    from functools import partial

    from moa_tf.atomic import check_directory, sync, sync_tree, temporary_directory
    from moa_tf.data.opening import check_table
    from moa_tf.data.read import iter_features, read_targets
    from moa_tf.errors import InputError
    from moa_tf.explanation.symbols import read_gene_names

    check_table(features)
    if out.exists():
        raise InputError(f"{out}: is there already, expected the name of a new directory")
    check_directory(out)
    if targets and not compare:
        raise InputError(f"--targets {targets}: expected only with --compare")
    names = read_gene_names(genes) if genes else {}
    tell = partial(click.echo, err=True)
    known = read_targets(targets, tell) if targets else None
    import_tensorflow()
    from moa_tf.explanation.importance import (
        explain_table,
        mechanism_table,
        overall_table,
        plot_mechanisms,
    )
    from moa_tf.explanation.mean_images import MeanImages
    from moa_tf.explanation.neighbours import NeighbourTable
    from moa_tf.explanation.sources import open_source

    source = open_source(model)
    unknown = [column for column in names if column not in source.columns]
    if unknown:
        shown = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        click.echo(f"note: {genes}: {len(unknown)} columns are not the model's ({shown}), ignored", err=True)
    if compare and source.pixels is None:
        raise InputError(f"--compare: {model} has no images, expected a DeepInsight")
    images = MeanImages(compare, source.targets, known) if compare else None

    with temporary_directory(out.parent, out) as temporary, row_progress("explaining") as progress:
        results = temporary / "results"
        results.mkdir()
        near = None
        if source.references is not None:
            near = NeighbourTable(results / "neighbours.csv", source.references, source.targets)

        def explain_part(part: Signatures) -> tuple[np.ndarray, np.ndarray]:
            explained = source.explain(part)
            if images is not None:
                images.add(part, explained.probabilities, explained.features)
            if near is not None and explained.neighbours is not None:
                near.add(part, explained.probabilities, explained.neighbours, explained.similarity)
            return explained.importance, explained.probabilities

        sums = explain_table(
            explain_part,
            iter_features(features, source.spec, rows=batch_size, tell=tell),
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
        if images is not None:
            images.draw(source.pixels, source.image_size, results / "mean_images.png")
        sync_tree(results)
        try:
            results.rename(out)
        except OSError as error:  # someone else has made it by now
            raise InputError(f"{out}: cannot be written ({error.strerror})") from error
        sync(out.parent)
    rows = [[row.name, row.feature, row.importance] for row in overall.head(top).itertuples(index=False)]
    print_table(f"Importance over {sums.rows} signatures ({out})", ["name", "feature", "importance"], rows)
    if json_file:
        figures = {
            "signatures": sums.rows,
            "out": str(out),
            "importance": overall.set_index("feature")["importance"].to_dict(),
            "mechanisms": mechanisms.to_dict("records"),
        }
        write_json(json_file, figures)


def _draw_maps(
    source: Source, sums: ImportanceSums, names: dict[str, str], top: int, directory: Path
) -> None:
    """The DeepInsight map, and over it the class activation of those mechanisms that are predicted most."""
    from moa_tf.explanation.feature_map_plots import plot_activations, plot_density
    from moa_tf.explanation.figures import save_figure
    from moa_tf.explanation.symbols import label_columns

    save_figure(plot_density(source.pixels, source.image_size), directory / "feature_map.png")
    frequent = [i for i in np.argsort(-sums.weights, kind="stable")[:4] if sums.weights[i] > 0]
    if frequent:
        maps = {source.targets[i]: sums.by_target[i, source.drawn] for i in frequent}
        labels = np.asarray(label_columns(source.columns, names), object)[source.drawn]
        figure = plot_activations(source.pixels, source.image_size, maps, labels, top, "share", source.grid)
        save_figure(figure, directory / "activation_maps.png")
