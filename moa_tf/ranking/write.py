"""Cards as tables, JSON, and a page."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from moa_tf.atomic import to_plain
from moa_tf.ranking.cards import INACTIVE, UNKNOWN, Card, Hypothesis
from moa_tf.ranking.evidence import Explained, Moved
from moa_tf.ranking.neighbours import Neighbour
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
                "moved": "; ".join(f"{each.name} ({each.z:+.1f})" for each in card.moved),
                "rests_on": "; ".join(each.name for each in card.explained.reasons) if card.explained else "",
                "hypotheses": "; ".join(each.mechanism for each in card.hypotheses),
            }
            for card in cards
        ]
    ).to_csv(directory / DRUGS, index=False)
    values = {"ranking": ranking.to_dict(), "drugs": [_plain(card) for card in cards]}
    (directory / JSON).write_text(json.dumps(to_plain(values), ensure_ascii=False), encoding="utf-8")
    (directory / PAGE).write_text(page(cards, ranking, title=title, note=note), encoding="utf-8")


def show_probability(p: float) -> str:
    """With two digits, and never as certain."""
    return f"{p:.2f}" if p < 0.995 else "> 0.99"


def describe_model(metadata: Mapping[str, Any], ranking: Ranking) -> str:
    """What a reader of the page must know of the model, by its metadata."""
    note = f"Model {metadata.get('model')}, exported {metadata['created']}; rule {ranking.rule}."
    if metadata.get("simulated"):
        note += " Trained on simulated data: this says nothing of real drugs."
    return note


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
    evidence = [
        _near("Nearest reference drugs", card.neighbours),
        *(_explained(card.explained) if card.explained else ()),
        _moved(card.moved),
    ]
    names = " ".join([card.drug, *(each.mechanism for each in card.hypotheses)]).lower()
    return (
        f'<article data-find="{_text(names)}" data-p="{best:.6f}" data-activity="{card.activity}">'
        f"<h2>{_text(card.drug)}</h2><p class=facts>{_text('; '.join(facts))}</p>{flag}{body}"
        f"{''.join(evidence)}</article>"
    )


def _details(summary: str, items: Sequence[str], kind: str = "") -> str:
    listed = "".join(f"<li>{item}</li>" for item in items)
    named = f' class="{kind}"' if kind else ""
    return f"<details{named}><summary>{_text(summary)}</summary><ul>{listed}</ul></details>" if items else ""


def _near(summary: str, neighbours: Sequence[Neighbour]) -> str:
    return _details(
        summary,
        [
            f"{_text(each.drug)} <span>{each.similarity:.2f}</span> "
            f"{_text(', '.join(each.mechanisms) or 'no mechanism')}"
            for each in neighbours
        ],
    )


def _explained(explained: Explained) -> Sequence[str]:
    """What the first hypothesis rests on."""
    where = f" at {explained.condition}" if explained.condition else ""
    most = max((each.share for each in explained.reasons), default=1)
    return (
        _details(
            f"What {explained.mechanism} rests on (signature {explained.signature}{where})",
            [
                f'{_text(each.name)} <i style="width:{100 * each.share / most:.0f}%"></i> {100 * each.share:.1f} %'
                for each in explained.reasons
            ],
            "bars",
        ),
        _near("Drugs that it was predicted from", explained.neighbours),
    )


def _moved(moved: Sequence[Moved]) -> str:
    """Bars to the left and to the right."""
    most = max((abs(each.z) for each in moved), default=1)
    return _details(
        "What it moved most, in standard deviations",
        [
            f'{_text(each.name)} <i class="{"up" if each.z > 0 else "down"}" '
            f'style="width:{50 * abs(each.z) / most:.0f}%"></i> {each.z:+.1f}'
            for each in moved
        ],
        "bars",
    )


def _hypothesis(each: Hypothesis) -> str:
    p = each.probability
    shown = _text(show_probability(p))
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
        where = f"<details><summary>By condition, not calibrated</summary><ul>{items}</ul></details>"
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
    listed = ("neighbours", "hypotheses", "moved", "explained")
    return {
        **{key: value for key, value in vars(card).items() if key not in listed},
        "neighbours": [vars(near) for near in card.neighbours],
        "moved": [vars(each) for each in card.moved],
        "explained": dataclasses.asdict(card.explained) if card.explained else None,
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
