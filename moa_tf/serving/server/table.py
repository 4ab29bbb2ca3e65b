"""A table of signatures dropped on the page: read as the commands read it, and answered by rows."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from moa_tf.data.read import iter_features
from moa_tf.data.schema import Signatures
from moa_tf.data.tables import SUFFIXES
from moa_tf.errors import InputError
from moa_tf.serving.predict import raw_columns
from moa_tf.serving.server.batching import Arrays
from moa_tf.serving.server.errors import Code, Refused, invalid
from moa_tf.serving.server.limits import inflate
from moa_tf.serving.server.settings import Settings
from moa_tf.serving.server.tensors import check_limit
from moa_tf.serving.server.version import DEFAULT, Version
from moa_tf.serving.versions import REFERENCES

TOP, MOST = 5, 50
"""Mechanisms of a row that are shown, and the most that may be asked for."""
FEATURES = 10
"""Features of an explanation."""
CHUNK = 1024
EXPLAINED = 10
"""Drugs of a page of cards that are explained: somebody waits for it."""
JSON, CSV, HTML = "application/json", "text/csv", "text/html; charset=utf-8"

Answer = tuple[bytes, str]


class Tables:
    """What the page asks for. Each call may take a while, and runs in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def describe(self, version: Version) -> dict[str, Any]:
        """A model, for the page's list."""
        served = version.served
        return {
            "name": version.model,
            "version": version.number,
            "kind": served.metadata.get("model"),
            "genes": len(served.spec.genes),
            "cells": len(served.spec.cells),
            "treatment": list(served.spec.treatment),
            "targets": len(served.target_names),
            "simulated": bool(served.metadata.get("simulated")),
            "explains": "explain" in version.signatures,
            "ranks": bool(served.metadata.get("ranking")),
        }

    def rank(self, version: Version, body: bytes, query: dict[str, str]) -> Answer:
        """The `top` mechanisms of each signature, best first, as JSON."""
        top = _whole(query, "top", TOP, MOST)
        names, notes, rows = version.served.target_names, [], []
        for part in self._parts(version, body, query, notes):
            probabilities = _compute(version, DEFAULT, part)["probabilities"]
            order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
            for name, control, places, values in zip(
                part.sig_id, part.control, order, probabilities, strict=True
            ):
                best = [] if control else [[names[place], float(values[place])] for place in places]
                rows.append({"sig_id": name, "control": bool(control), "mechanisms": best})
        answer = {"model": version.model, "version": version.number, "notes": notes, "rows": rows}
        return orjson.dumps(answer), JSON

    def csv(self, version: Version, body: bytes, query: dict[str, str]) -> Answer:
        """All probabilities, as `moa-tf predict` writes them."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["sig_id", *version.served.target_names])
        for part in self._parts(version, body, query, []):
            probabilities = _compute(version, DEFAULT, part)["probabilities"]
            writer.writerows(
                [name, *map(str, row)] for name, row in zip(part.sig_id, probabilities, strict=True)
            )
        return text.getvalue().encode(), CSV

    def explain(self, version: Version, body: bytes, query: dict[str, str]) -> Answer:
        """Why the signature `sig_id` has its top mechanism: features that speak for it most, and nearest drugs."""
        if "explain" not in version.signatures:
            raise Refused(Code.FAILED_PRECONDITION, f"{version.model} cannot explain itself")
        wanted = query.get("sig_id", "")
        for part in self._parts(version, body, query, []):
            at = np.flatnonzero(part.sig_id == wanted)
            if len(at):
                row = part.take(at[:1])
                return orjson.dumps(_explanation(version, row)), JSON
        raise invalid(f"sig_id {wanted[:80]!r}: is not in the table")

    def cards(self, version: Version, body: bytes, query: dict[str, str]) -> Answer:
        """A card for each drug, as `moa-tf rank` makes them: a page that loads nothing."""
        from moa_tf.explanation.sources import served_source
        from moa_tf.ranking.cards import make_cards
        from moa_tf.ranking.drugs import find_drugs
        from moa_tf.ranking.ranking import Ranking
        from moa_tf.ranking.write import describe_model, page

        served = version.served
        if not served.metadata.get("ranking"):
            raise Refused(
                Code.FAILED_PRECONDITION, f"{version.model} does not say what its calls on drugs are worth"
            )
        ranking = Ranking.from_dict(served.metadata["ranking"])
        with self._file(body, query, []) as path:
            rows = 0
            for part in iter_features(path, served.spec, rows=CHUNK):
                rows += len(part)
                check_limit(rows, self._settings.row_limit)
            cards = make_cards(
                _Batched(version),
                ranking,
                path,
                drug_of=find_drugs(path),
                source=served_source(served) if "explain" in version.signatures else None,
                explain=EXPLAINED,
            )
        title = f"Mechanisms of {len(cards):,} drugs of {query.get('name', '')}"
        note = describe_model(served.metadata, ranking)
        return page(cards, ranking, title=title, note=note).encode(), HTML

    def _parts(
        self, version: Version, body: bytes, query: dict[str, str], notes: list[str]
    ) -> Iterator[Signatures]:
        rows = 0
        with self._file(body, query, notes) as path:
            for part in iter_features(path, version.served.spec, rows=CHUNK, tell=notes.append):
                rows += len(part)
                check_limit(rows, self._settings.row_limit)
                yield part

    @contextmanager
    def _file(self, body: bytes, query: dict[str, str], notes: list[str]) -> Iterator[Path]:
        """The table as a file; what is wrong with it is refused, and said without the file's place."""
        name = query.get("name", "table.csv").lower()
        suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
        if suffix is None:
            raise invalid(f"expected a file whose name ends in {', '.join(SUFFIXES)}")
        if suffix.endswith(".gz"):
            body, suffix = inflate(body, self._settings.body_limit), suffix.removesuffix(".gz")
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, _file_name(query, suffix))
            path.write_bytes(body)
            try:
                yield path
            except InputError as error:
                raise invalid(str(error).replace(directory + "/", "")) from None
            finally:
                notes[:] = [note.replace(directory + "/", "") for note in notes]


class _Batched:
    """A model in service, for what asks for a `moa_tf.serving.predict.Model`: its calls share the server's batches."""

    def __init__(self, version: Version) -> None:
        self._version, served = version, version.served
        self.spec, self.target_names, self.batch_size = served.spec, served.target_names, served.batch_size

    def predict(self, signatures: Signatures, batch_size: int | None = None) -> np.ndarray:
        return _compute(self._version, DEFAULT, signatures)["probabilities"]


def _file_name(query: dict[str, str], suffix: str) -> str:
    """What the user calls the table, for the messages, with nothing in it that has a meaning in a path."""
    stem = re.split(r"[/\\]", query.get("name", ""))[-1].partition(".")[0]
    return (re.sub(r"[^\w-]", "_", stem)[:80] or "table") + suffix


def _compute(version: Version, name: str, part: Signatures) -> Arrays:
    return version.signature(name).submit(raw_columns(part), len(part)).result()


def _explanation(version: Version, row: Signatures) -> dict[str, Any]:
    from moa_tf.models.base import importance_columns

    served = version.served
    outputs = _compute(version, "explain", row)
    columns = importance_columns(served.spec)
    weights = outputs["importance" if "importance" in outputs else "activation"][0]
    weights = weights / max(weights.sum(), 1e-12)
    tops = outputs["target"] if "target" in outputs else outputs["probabilities"].argmax(axis=1)
    target = int(tops[0])
    signed = outputs["attribution"][0] if "attribution" in outputs else None
    values = np.concatenate([raw[0] for raw in (row.genes, row.cells) if raw is not None])
    order = np.argsort(-weights, kind="stable")[:FEATURES]
    features = [
        {
            "name": columns[place],
            "importance": float(weights[place]),
            "value": float(values[place]) if place < len(values) and np.isfinite(values[place]) else None,
            "attribution": None if signed is None else float(signed[place]),
        }
        for place in order
        if weights[place] > 0
    ]
    answer = {"mechanism": served.target_names[target], "features": features, "neighbours": []}
    references = _references(served.path / "assets" / REFERENCES)
    if references is not None and "neighbours" in outputs:
        for place, similarity in zip(outputs["neighbours"][0], outputs["similarity"][0], strict=True):
            drug = references.iloc[int(place)]
            answer["neighbours"].append(
                {
                    "drug": drug["drug"],
                    "mechanisms": drug["mechanisms"],
                    "similarity": float(similarity),
                }
            )
    return answer


@lru_cache(maxsize=8)
def _references(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else None


def _whole(query: dict[str, str], name: str, usual: int, most: int) -> int:
    text = query.get(name, str(usual))
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:9]) <= most:
        raise invalid(f"{name}={text[:20]}: expected a whole number from 1 to {most}")
    return int(text)
