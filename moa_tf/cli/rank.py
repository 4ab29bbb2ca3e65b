"""`moa-tf rank`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from moa_tf.api import rank as api
from moa_tf.cli.options import LocalPath, json_option
from moa_tf.cli.output import print_lines, print_table, row_progress, write_json


@click.command()
@click.argument("saved_model", type=LocalPath())
@click.argument("features", type=LocalPath())
@click.argument("out", type=LocalPath())
@click.option(
    "--drugs",
    type=LocalPath(),
    help="A table of sig_id and drug_id. [default: the column drug_id of FEATURES, or each signature by itself]",
)
@click.option(
    "--reference",
    type=LocalPath(),
    help="Directory of training tables: names each drug's nearest reference drugs, and says which are like none.",
)
@click.option(
    "--top", type=click.IntRange(1), default=5, show_default=True, help="Hypotheses of a drug, at most."
)
@click.option(
    "--least",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Probability of a hypothesis, at least.",
)
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.15,
    show_default=True,
    help="A drug whose p-value of activity is above is inactive, and gets no call.",
)
@click.option(
    "--explain",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="Drugs to explain, those with the most probable hypotheses: which genes or cell lines the first rests on.",
)
@click.option("--genes", type=LocalPath(), help="Gene mapping .csv: g-i to symbol or Entrez id.")
@json_option
def rank(
    saved_model: Path,
    features: Path,
    out: Path,
    drugs: Path | None,
    reference: Path | None,
    top: int,
    least: float,
    level: float,
    explain: int,
    genes: Path | None,
    json_file: Path | None,
) -> None:
    """Lists each drug's probable mechanisms, with what such calls were worth.

    A drug's signatures are brought together over replicates, doses and times, by the rule that did best out of fold,
    and the probabilities are calibrated on drugs. Beside each stands how many of 100 calls like it were right among
    the training drugs, and the share of wrong ones to be expected in the list down to it. A drug is inactive, and gets
    no call, where its replicates' agreement and its distance from the controls are together no more than chance.
    Evidence is what the drug moved, what its first hypothesis rests on, and the reference drugs that it is like.

    OUT is a new directory: index.html, a card for each drug in one file that needs no network; hypotheses.csv,
    drugs.csv and ranking.json.

    \b
    Examples:
      moa-tf rank saved_models/mlp test_features.csv ranked
      moa-tf rank saved_models/blend plate.csv ranked --drugs plate_drugs.csv --reference lish-moa
    """
    with row_progress("ranking") as progress:
        ranked = api.rank(
            saved_model,
            features,
            out,
            drugs=drugs,
            reference=reference,
            top=top,
            least=least,
            level=level,
            explain=explain,
            genes=genes,
            progress=progress,
            tell=partial(click.echo, err=True),
        )
    from moa_tf.ranking.cards import INACTIVE
    from moa_tf.ranking.write import PAGE, show_probability

    cards = ranked.cards
    called = [card for card in cards if card.hypotheses]
    print_table(
        "Most probable",
        ["drug", "mechanism", "probability", "of 100 such calls right"],
        [
            [
                card.drug,
                card.hypotheses[0].mechanism,
                show_probability(card.hypotheses[0].probability),
                None if card.hypotheses[0].band is None else f"{100 * card.hypotheses[0].band.precision:.0f}",
            ]
            for card in called[:10]
        ],
    )
    inactive = sum(card.activity == INACTIVE for card in cards)
    print_lines(
        f"drugs        {len(cards):,}: {len(called):,} with a call, {inactive:,} inactive",
        f"page         {out / PAGE}",
    )
    if json_file:
        write_json(
            json_file, {"drugs": len(cards), "called": len(called), "inactive": inactive, "out": str(out)}
        )
