"""A card for each drug of a table: its hypotheses, what they are worth, and the evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from moa_tf.data.read import iter_features
from moa_tf.data.schema import Dataset, Signatures
from moa_tf.errors import InputError
from moa_tf.explanation.sources import Source
from moa_tf.ranking.activity import LEVEL, Profiles, fit_scale
from moa_tf.ranking.consensus import Consensus, conditions
from moa_tf.ranking.evidence import Explained, Moved, explain_drugs, most_moved
from moa_tf.ranking.neighbours import Neighbour, Reference
from moa_tf.ranking.ranking import LEAST, Band, Ranking, expected_false
from moa_tf.serving.predict import CHUNK, Model

EXPLAINED = 50
"""Drugs: integrated gradients of a wide network take a good part of a second each."""
INACTIVE, ACTIVE, UNKNOWN = "inactive", "active", "not known"


@dataclass(frozen=True)
class Hypothesis:
    """A mechanism that a drug may have.

    Attributes:
        mechanism: its name.
        probability: calibrated on drugs.
        band: out-of-fold calls of like probability, if any.
        false: expected share of wrong ones among all hypotheses of the table that are as probable or more.
        by_condition: condition -> mean probability of the drug's signatures there, not calibrated.
    """

    mechanism: str
    probability: float
    band: Band | None
    false: float
    by_condition: dict[str, float]


@dataclass(frozen=True)
class Card:
    """What is said of a drug.

    Attributes:
        drug: its name.
        signatures: how many it has.
        activity: `active`, `inactive` or `not known`.
        p: that chance alone looks as active; NaN where it is not known.
        agreement: mean correlation of its signatures; NaN of one.
        strength: how far out it is, 1 as a control; NaN without controls.
        outside: whether no reference drug is near; None without a reference.
        neighbours: the nearest reference drugs.
        moved: genes and cell lines that it moved most.
        hypotheses: the most probable first; none of an inactive drug.
        explained: what the first of them rests on; None where nothing was explained.
    """

    drug: str
    signatures: int
    activity: str
    p: float
    agreement: float
    strength: float
    outside: bool | None
    neighbours: list[Neighbour]
    moved: list[Moved]
    hypotheses: list[Hypothesis]
    explained: Explained | None = None


def make_cards(
    model: Model,
    ranking: Ranking,
    features: Path,
    *,
    drug_of: Callable[[np.ndarray], np.ndarray],
    reference: Dataset | None = None,
    top: int = 5,
    least: float = LEAST,
    level: float = LEVEL,
    source: Source | None = None,
    explain: int = EXPLAINED,
    names: Mapping[str, str] = MappingProxyType({}),
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda rows: None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Card]:
    """Reads a table twice: what signatures are without a drug, then what the model and the profiles say.

    Once more, as far as there is something to find, for the signatures that are explained.

    Memory grows with the drugs, not with the signatures.

    Args:
        model: exported.
        ranking: kept with it.
        features: the table.
        drug_of: from ids [N] to names of drugs [N].
        reference: drugs whose mechanisms are known; its controls, then, are what a drug is held against.
        top: hypotheses of a drug, at most.
        least: their probability, at least.
        level: of the p-value up to which a drug is active.
        source: the same model, where it gives importance.
        explain: how many drugs to explain by it, those with the most probable hypotheses.
        names: columns of genes -> what to call them.
        batch_size: signatures computed at once.
        seed: of what chance is drawn from.
        progress: called with the number of rows just done.
        tell: as for `iter_features`.

    Returns:
        Cards, the drug with the most probable hypothesis first, inactive ones last.

    Raises:
        InputError: no treated signature in the table, or faults of it.
    """

    def chunks(tell: Callable[[str], None] = lambda line: None) -> Iterator[Signatures]:
        return iter_features(features, model.spec, CHUNK, tell)

    whole = [reference.signatures] if reference is not None else None
    scale = fit_scale(whole or chunks(tell))
    profiles = Profiles(scale, seed)
    targets = model.target_names
    lists, by_condition = Consensus(ranking.rule, len(targets)), Consensus("max-condition", len(targets))
    for signatures in whole or chunks():
        profiles.add_controls(signatures)
    for signatures in chunks():
        treated = signatures.take(~signatures.control)
        if len(treated):
            drug, condition = drug_of(treated.sig_id), conditions(treated)
            probabilities = model.predict(treated, batch_size)
            lists.add(probabilities, drug, condition)
            by_condition.add(probabilities, drug, condition)
            profiles.add(treated, drug)
        progress(len(signatures))
    drugs, consensus = lists.result()
    if not len(drugs):
        raise InputError(f"{features.name}: all signatures are controls, expected treated ones to rank")
    calibrated = ranking.calibrated(consensus)
    order = np.argsort([str(key) for key in profiles.mean.keys], kind="stable")
    activity = profiles.activity()
    p = activity.p[order]
    means = profiles.mean.means()[order]
    near = Reference(reference, scale) if reference is not None else None
    neighbours = near.nearest(list(drugs), means) if near else [[] for _ in drugs]
    called = (calibrated >= least) & ~(p > level)[:, None]
    # The most probable of each drug alone are shown, and so are counted.
    rank = np.argsort(np.argsort(-calibrated, axis=1, kind="stable"), axis=1)
    called &= rank < top
    flat = np.flatnonzero(called)
    flat = flat[np.argsort(-calibrated.ravel()[flat], kind="stable")]
    false = np.zeros(calibrated.size)
    false[flat] = expected_false(ranking, calibrated.ravel()[flat])
    false = false.reshape(calibrated.shape)
    spread = by_condition.table()
    moved = most_moved(means, model.spec.features, names)
    cards = []
    for i, drug in enumerate(drugs):
        order_of = np.flatnonzero(called[i])
        order_of = order_of[np.argsort(-calibrated[i, order_of], kind="stable")]
        cards.append(
            Card(
                str(drug),
                int(profiles.mean.counts[order][i]),
                UNKNOWN if np.isnan(p[i]) else ACTIVE if p[i] <= level else INACTIVE,
                float(p[i]),
                float(activity.agreement[order][i]),
                float(activity.strength[order][i]),
                (not neighbours[i] or neighbours[i][0].similarity < near.threshold) if near else None,
                neighbours[i],
                moved[i],
                [
                    Hypothesis(
                        targets[j],
                        float(calibrated[i, j]),
                        ranking.band(calibrated[i, j]),
                        float(false[i, j]),
                        {where: float(values[j]) for where, values in spread[str(drug)].items()},
                    )
                    for j in order_of
                ],
            )
        )
    cards.sort(key=lambda card: (-(card.hypotheses[0].probability if card.hypotheses else 0), card.drug))
    cards.sort(key=lambda card: card.activity == INACTIVE)
    if source is None or not explain:
        return cards
    wanted = {
        card.drug: (_clearest(card.hypotheses[0]), card.hypotheses[0].mechanism)
        for card in [card for card in cards if card.hypotheses][:explain]
    }
    explained = explain_drugs(source, chunks(), drug_of, wanted, names)
    return [dataclasses.replace(card, explained=explained.get(card.drug)) for card in cards]


def _clearest(hypothesis: Hypothesis) -> str:
    """The condition where it is most probable."""
    return max(hypothesis.by_condition, key=lambda condition: hypothesis.by_condition[condition])
