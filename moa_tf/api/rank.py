"""A ranked list of mechanisms for each drug, as a function."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moa_tf.api.predict import start_tensorflow
from moa_tf.atomic import check_directory, publish_directory, writing
from moa_tf.errors import InputError
from moa_tf.paths import local_path
from moa_tf.training.reporter import log

if TYPE_CHECKING:
    import pandas as pd

    from moa_tf.ranking.cards import Card


@dataclass(frozen=True)
class RankedDrugs:
    """What a ranking has left.

    Attributes:
        directory: `index.html`, `hypotheses.csv`, `drugs.csv`, `ranking.json`.
        cards: what is said of each drug, the one with the most probable hypothesis first, inactive ones last.
    """

    directory: Path
    cards: list[Card]

    def hypotheses(self) -> pd.DataFrame:
        """`hypotheses.csv`: a row a drug and mechanism."""
        import pandas as pd

        return pd.read_csv(self.directory / "hypotheses.csv")


@writing()
def rank(
    model: str | os.PathLike[str],
    features: pd.DataFrame | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    drugs: str | os.PathLike[str] | None = None,
    reference: str | os.PathLike[str] | None = None,
    top: int = 5,
    least: float = 0.05,
    level: float = 0.15,
    explain: int = 50,
    genes: str | os.PathLike[str] | None = None,
    progress: Callable[[int], None] = lambda rows: None,
    tell: Callable[[str], None] = log,
) -> RankedDrugs:
    """Lists each drug's probable mechanisms, as `moa-tf rank` does; names and defaults are that command's.

    Args:
        model: an exported model.
        features: a table of signatures, as a file or a DataFrame.
        out: a new directory.
        drugs: a table of `sig_id` and `drug_id`; by default the features' own column `drug_id`, or each signature is a
            drug of its own.
        reference: directory of training tables, to name each drug's nearest reference drugs.
        top: hypotheses of a drug, at most.
        least: probability of a hypothesis, at least.
        level: of the p-value up to which a drug is active.
        explain: drugs to explain, those with the most probable hypotheses.
        genes: gene mapping, `g-*` to symbol or Entrez id.
        progress: is called with the number of rows just done.
        tell: gets each line that the user should know.

    Raises:
        InputError: one line for each fault of the call or the data. A ValueError.
    """
    from moa_tf.explanation.symbols import read_gene_names
    from moa_tf.ranking.drugs import find_drugs
    from moa_tf.serving.versions import load_metadata

    saved_model, out = local_path("model", model), local_path("out", out)
    if out.exists():
        raise InputError(f"{out}: is there already, expected the name of a new directory")
    check_directory(out)
    metadata = load_metadata(saved_model)
    if not metadata.get("ranking"):
        raise InputError(
            f"{saved_model}: does not say what its calls on drugs are worth, expected a model exported by this version "
            "of a run that it trained"
        )
    names = read_gene_names(local_path("genes", genes)) if genes else {}
    given = None if drugs is None else local_path("drugs", drugs)
    with _as_file(features) as table:
        drug_of = find_drugs(table, given, tell)
        start_tensorflow()
        from moa_tf.data.read import read_dataset
        from moa_tf.explanation.sources import served_source
        from moa_tf.ranking.cards import make_cards
        from moa_tf.ranking.ranking import Ranking
        from moa_tf.ranking.write import describe_model, write_cards
        from moa_tf.serving.predict import load_model

        served, ranking = load_model(saved_model), Ranking.from_dict(metadata["ranking"])
        dataset = None
        if reference is not None:
            dataset = read_dataset(local_path("reference", reference), missing=served.spec.missing)
            if dataset.signatures.spec.features != served.spec.features:
                raise InputError(
                    f"{reference}: has other genes or cell lines than the model, expected the same in their order"
                )
        progress(0)
        cards = make_cards(
            served,
            ranking,
            table,
            drug_of=drug_of,
            reference=dataset,
            top=top,
            least=least,
            level=level,
            source=served_source(served) if explain and "explain" in served.loaded.signatures else None,
            explain=explain,
            names=names,
            progress=progress,
            tell=tell,
        )
    note = describe_model(metadata, ranking)
    with publish_directory(out) as results:
        write_cards(cards, ranking, results, title=f"Mechanisms of {len(cards):,} drugs", note=note)
    return RankedDrugs(out, cards)


@contextmanager
def _as_file(features: pd.DataFrame | str | os.PathLike[str]) -> Iterator[Path]:
    """The table's file; it is read more than once, and in pieces."""
    if isinstance(features, (str, os.PathLike)):
        yield local_path("features", features)
        return
    from pyarrow import parquet

    from moa_tf.data.frames import NAME, FrameTable

    with tempfile.TemporaryDirectory(prefix="moa-tf-") as folder:
        path = Path(folder, f"{NAME}.parquet")
        parquet.write_table(FrameTable(features).data, path)
        yield path
