"""`moa-tf explain`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from moa_tf.api import explain as api
from moa_tf.cli.options import LocalPath, json_option
from moa_tf.cli.output import print_table, row_progress, write_json


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
    with row_progress("explaining") as progress:
        explained = api.explain(
            model,
            features,
            out,
            genes=genes,
            top=top,
            compare=compare,
            targets=targets,
            batch_size=batch_size,
            progress=progress,
            tell=partial(click.echo, err=True),
        )
    overall = explained.importance
    rows = [[row.name, row.feature, row.importance] for row in overall.head(top).itertuples(index=False)]
    print_table(
        f"Importance over {explained.signatures} signatures ({out})", ["name", "feature", "importance"], rows
    )
    if json_file:
        figures = {
            "signatures": explained.signatures,
            "out": str(out),
            "importance": overall.set_index("feature")["importance"].to_dict(),
            "mechanisms": explained.mechanisms.to_dict("records"),
        }
        write_json(json_file, figures)
