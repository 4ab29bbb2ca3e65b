"""Cards as tables, JSON, and a page."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from moa_tf.atomic import to_plain
from moa_tf.ranking.cards import INACTIVE, UNKNOWN, Card, Hypothesis
from moa_tf.ranking.ranking import Ranking

PAGE, HYPOTHESES, DRUGS, JSON = "index.html", "hypotheses.csv", "drugs.csv", "ranking.json"


def write_cards(cards: Sequence[Card], ranking: Ranking, directory: Path, *, title: str, note: str) -> None:
    """Writes everything into `directory`, which is there and empty.

    Args:
        cards: of `make_cards`.
        ranking: the model's.
        directory: for all files.
        title: of the page.
        note: what a reader must know, on the page.
    """
    pd.DataFrame(
        [
            {
                "drug": card.drug,
                "rank": rank,
                "mechanism": each.mechanism,
                "probability": each.probability,
                **_precision(each),
                "expected_false": each.false,
                "activity": card.activity,
                "outside": card.outside,
            }
            for card in cards
            for rank, each in enumerate(card.hypotheses, start=1)
        ],
        columns=[
            *(
                "drug",
                "rank",
                "mechanism",
                "probability",
                "precision",
                "precision_low",
                "precision_high",
                "calls",
            ),
            *("expected_false", "activity", "outside"),
        ],
    ).to_csv(directory / HYPOTHESES, index=False)
    pd.DataFrame(
        [
            {
                "drug": card.drug,
                "signatures": card.signatures,
                "activity": card.activity,
                "p": card.p,
                "agreement": card.agreement,
                "strength": card.strength,
                "outside": card.outside,
                "neighbours": "; ".join(f"{near.drug} ({near.similarity:.2f})" for near in card.neighbours),
                "hypotheses": "; ".join(each.mechanism for each in card.hypotheses),
            }
            for card in cards
        ]
    ).to_csv(directory / DRUGS, index=False)
    values = {"ranking": ranking.to_dict(), "drugs": [_plain(card) for card in cards]}
    (directory / JSON).write_text(json.dumps(to_plain(values), ensure_ascii=False), encoding="utf-8")
    (directory / PAGE).write_text(page(cards, ranking, title=title, note=note), encoding="utf-8")


def page(cards: Sequence[Card], ranking: Ranking, *, title: str, note: str) -> str:
    """One file that loads nothing: a card for each drug, with filter and sort.

    Thousands of cards are laid out only where they come into view (`content-visibility`).
    """
    template = files("moa_tf.ranking").joinpath("page.html").read_text(encoding="utf-8")
    called = sum(bool(card.hypotheses) for card in cards)
    inactive = sum(card.activity == INACTIVE for card in cards)
    lead = (
        f"{len(cards):,} drugs: {called:,} with a call, {inactive:,} inactive. Probabilities are calibrated on drugs; "
        f"beside each stands how many such calls on {ranking.evidence['drugs']:,} training drugs were right, held out."
    )
    parts = {
        "TITLE": _text(title),
        "LEAD": _text(lead),
        "NOTE": _text(note),
        "CARDS": "\n".join(_card(card) for card in cards),
    }
    # One pass: what a name holds is not looked at again.
    found = []
    for piece in template.split("{{"):
        key, brace, rest = piece.partition("}}")
        found.append(parts[key] + rest if brace and key in parts else piece)
    return "".join(found)


def _card(card: Card) -> str:
    best = card.hypotheses[0].probability if card.hypotheses else 0.0
    signatures = f"{card.signatures:,} signature{'s' * (card.signatures != 1)}"
    facts = [signatures]
    if card.activity == UNKNOWN:
        facts.append("activity not known: one signature and too few controls")
    else:
        facts.append(f"{card.activity} (p = {card.p:.2g})")
    if not math.isnan(card.agreement):
        facts.append(f"replicates agree by {card.agreement:.2f}")
    if not math.isnan(card.strength):
        facts.append(f"strength {card.strength:.1f}, a control has 1")
    flag = (
        '<p class="flag">Outside the training domain: no reference drug is near.</p>' if card.outside else ""
    )
    body = "".join(_hypothesis(each) for each in card.hypotheses)
    if card.activity == INACTIVE:
        body = '<p class="none">Inactive: no call.</p>'
    elif not body:
        body = '<p class="none">No mechanism is probable enough for a call.</p>'
    else:
        body = f"<ol>{body}</ol>"
    near = "".join(
        f"<li>{_text(each.drug)} <span>{each.similarity:.2f}</span> "
        f"{_text(', '.join(each.mechanisms) or 'no mechanism')}</li>"
        for each in card.neighbours
    )
    near = f"<details><summary>Nearest reference drugs</summary><ul>{near}</ul></details>" if near else ""
    names = " ".join([card.drug, *(each.mechanism for each in card.hypotheses)]).lower()
    return (
        f'<article data-find="{_text(names)}" data-p="{best:.6f}" data-activity="{card.activity}">'
        f"<h2>{_text(card.drug)}</h2><p class=facts>{_text('; '.join(facts))}</p>{flag}{body}{near}</article>"
    )


def _hypothesis(each: Hypothesis) -> str:
    p = each.probability
    shown = f"{p:.2f}" if p < 0.995 else "&gt; 0.99"
    said = "no such calls were counted"
    if each.band is not None:
        low, high = each.band.interval()
        said = (
            f"of 100 calls like this, {100 * each.band.precision:.0f} were right "
            f"({100 * low:.0f} to {100 * high:.0f}; {each.band.calls} counted)"
        )
    where = ""
    if len(each.by_condition) > 1:
        items = "".join(
            f'<li>{_text(name)} <meter min="0" max="1" value="{value:.3f}"></meter> {value:.2f}</li>'
            for name, value in sorted(each.by_condition.items())
        )
        where = f"<details><summary>By condition</summary><ul>{items}</ul></details>"
    return (
        f'<li><span class="name">{_text(each.mechanism)}</span> <span class="bar" aria-hidden="true">'
        f'<i style="width:{100 * p:.1f}%"></i></span> <b>{shown}</b><p>{said}; of all calls as probable or '
        f"more {100 * each.false:.0f} % are expected to be wrong</p>{where}</li>"
    )


def _precision(each: Hypothesis) -> dict[str, Any]:
    if each.band is None:
        return {"precision": None, "precision_low": None, "precision_high": None, "calls": None}
    low, high = each.band.interval()
    return {
        "precision": each.band.precision,
        "precision_low": low,
        "precision_high": high,
        "calls": each.band.calls,
    }


def _plain(card: Card) -> dict[str, Any]:
    return {
        **{key: value for key, value in vars(card).items() if key not in ("neighbours", "hypotheses")},
        "neighbours": [vars(near) for near in card.neighbours],
        "hypotheses": [
            {
                "mechanism": each.mechanism,
                "probability": each.probability,
                **_precision(each),
                "expected_false": each.false,
                "by_condition": each.by_condition,
            }
            for each in card.hypotheses
        ],
    }


def _text(value: str) -> str:
    return html.escape(value)
