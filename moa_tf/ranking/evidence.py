"""What a drug did to genes and cell lines, and which of them its first hypothesis rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moa_tf.data.schema import Signatures
from moa_tf.explanation.sources import Source
from moa_tf.explanation.symbols import label_columns
from moa_tf.ranking.consensus import conditions
from moa_tf.ranking.neighbours import Neighbour

MOVED, REASONS, NEAREST = 8, 8, 3


@dataclass(frozen=True)
class Moved:
    """A gene or cell line that a drug moved.

    Attributes:
        feature: its column.
        name: what a biologist calls it.
        z: the drug's mean, in standard deviations of the controls (of all signatures where these are too few).
    """

    feature: str
    name: str
    z: float


@dataclass(frozen=True)
class Reason:
    """A column that a prediction rests on.

    Attributes:
        feature: its name in the table.
        name: what a biologist calls it.
        share: of the signature's importance, see `moa-tf explain`.
    """

    feature: str
    name: str
    share: float


@dataclass(frozen=True)
class Explained:
    """Why one signature of a drug looks like its first hypothesis.

    Attributes:
        signature: its id.
        condition: dose, time and cell line.
        mechanism: that the importance is about.
        reasons: the largest shares first.
        neighbours: drugs whose signatures the model holds and predicted from; none of other models.
    """

    signature: str
    condition: str
    mechanism: str
    reasons: list[Reason]
    neighbours: list[Neighbour]


def most_moved(
    means: np.ndarray, features: Sequence[str], names: Mapping[str, str], most: int = MOVED
) -> list[list[Moved]]:
    """Of each drug what is furthest from 0, the furthest first.

    Args:
        means: [D, F] mean scaled signatures.
        features: F columns.
        names: column -> what to call it.
        most: of a drug.
    """
    labels = label_columns(features, dict(names))
    most = min(most, means.shape[1])
    order = np.argsort(-np.abs(means), axis=1, kind="stable")[:, :most]
    return [
        [Moved(features[j], labels[j], float(row[j])) for j in places if row[j]]
        for row, places in zip(means, order, strict=True)
    ]


def explain_drugs(
    source: Source,
    chunks: Iterator[Signatures],
    drug_of: Callable[[np.ndarray], np.ndarray],
    wanted: Mapping[str, tuple[str, str]],
    names: Mapping[str, str],
) -> dict[str, Explained]:
    """Explains one signature of each drug: the first at the condition where its first hypothesis is most probable.

    Args:
        source: a model that gives importance.
        chunks: the table.
        drug_of: from ids to drugs.
        wanted: drug -> that condition, and the hypothesis.
        names: column -> what to call it.

    Returns:
        Drug -> what explains it. A drug is left out where this signature's own first mechanism is another, as
        importance is about that.
    """
    labels = label_columns(source.columns, dict(names))
    left, found = dict(wanted), {}
    for chunk in chunks:
        if not left:
            break
        treated = np.flatnonzero(~chunk.control)
        rows, drugs = [], []
        here = zip(treated, drug_of(chunk.sig_id[treated]), conditions(chunk)[treated], strict=True)
        for row, drug, condition in here:
            if str(drug) in left and left[str(drug)][0] == condition:
                del left[str(drug)]
                rows.append(row)
                drugs.append(str(drug))
        if not rows:
            continue
        part = chunk.take(np.array(rows))
        explained = source.explain(part)
        tops = explained.probabilities.argmax(axis=1)
        for i, drug in enumerate(drugs):
            condition, mechanism = wanted[drug]
            if source.targets[tops[i]] != mechanism:
                continue
            share = explained.importance[i]
            best = np.argsort(-share, kind="stable")[:REASONS]
            reasons = [Reason(source.columns[j], labels[j], float(share[j])) for j in best if share[j] > 0]
            near = []
            if source.references is not None and explained.neighbours is not None:
                for place, similarity in zip(
                    explained.neighbours[i][:NEAREST], explained.similarity[i][:NEAREST], strict=True
                ):
                    drug_there = source.references.iloc[int(place)]
                    known = tuple(filter(None, drug_there["mechanisms"].split("; ")))
                    near.append(Neighbour(drug_there["drug"], float(similarity), known))
            found[drug] = Explained(str(part.sig_id[i]), condition, mechanism, reasons, near)
    return found
