"""Signatures as `tf.Example`, as TFX's components hand them on: written by ExampleGen, read by the Trainer.

An example has the inputs of a model's `serving_examples` under their names (`genes`, `cells`, `cp_type`, …), and beside
them `sig_id`, `drug_id` and, where there are labels, `targets` [T] and `nonscored` [U].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moa_tf.data.read import complete
from moa_tf.data.schema import Dataset, Signatures, SignatureSpec
from moa_tf.serving.examples import to_examples as inputs_to_examples

if TYPE_CHECKING:
    import tensorflow as tf

ID, DRUG, TARGETS, NONSCORED = "sig_id", "drug_id", "targets", "nonscored"
"""Features beside a model's inputs. `drug_id` is what a split holds together: of a control the signature itself, as it
has no label that could be known from another row."""

BATCH = 1024


@dataclass(frozen=True)
class Panel:
    """What the examples of one pipeline hold, known before any is read.

    Attributes:
        spec: the signatures' panel.
        targets: names of the scored targets.
        nonscored: names of the nonscored targets, if any.
        simulated: whether the values are known to be simulated.
        source: where the tables are.
    """

    spec: SignatureSpec
    targets: tuple[str, ...]
    nonscored: tuple[str, ...] = ()
    simulated: bool = False
    source: str = ""

    @classmethod
    def of(cls, dataset: Dataset) -> Panel:
        spec, names = dataset.signatures.spec, (dataset.target_names, dataset.nonscored_names)
        return cls(spec, *map(tuple, names), dataset.simulated, dataset.source)

    def to_dict(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_dict(),
            "targets": list(self.targets),
            "nonscored": list(self.nonscored),
            "simulated": self.simulated,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Panel:
        spec = SignatureSpec.from_dict(values["spec"])
        names = (tuple(values["targets"]), tuple(values["nonscored"]))
        return cls(spec, *names, values["simulated"], values["source"])


def to_examples(
    signatures: Signatures,
    drug_id: Sequence[str] | None = None,
    targets: np.ndarray | None = None,
    nonscored: np.ndarray | None = None,
) -> list[tf.train.Example]:
    """An example a signature, of those features that there are."""
    examples = inputs_to_examples(signatures)
    for i, (example, name) in enumerate(zip(examples, signatures.sig_id, strict=True)):
        feature = example.features.feature
        texts = {ID: name} if drug_id is None else {ID: name, DRUG: drug_id[i]}
        for key, text in texts.items():
            feature[key].bytes_list.value.append(text.encode())
        for key, values in ((TARGETS, targets), (NONSCORED, nonscored)):
            if values is not None:
                feature[key].float_list.value.extend(values[i])
    return examples


def read_examples(files: Sequence[str], panel: Panel) -> Dataset:
    """The dataset that examples hold, ordered by `sig_id`, as their files have no order.

    Args:
        files: GZIP-compressed TFRecord files.
        panel: what the examples hold.

    Raises:
        ValueError: there is no example, or one without a feature of the panel.
    """
    import tensorflow as tf

    spec, codes = panel.spec, panel.spec.codes
    features = {
        name: tf.io.FixedLenFeature(shape, tf.string if name in codes else tf.float32)
        for name, (shape, _) in spec.inputs.items()
    }
    features |= {name: tf.io.FixedLenFeature((), tf.string) for name in (ID, DRUG)}
    labels = {TARGETS: panel.targets, NONSCORED: panel.nonscored}
    features |= {
        name: tf.io.FixedLenFeature((len(names),), tf.float32) for name, names in labels.items() if names
    }
    records = tf.data.TFRecordDataset(sorted(files), "GZIP").batch(BATCH)
    parts = list(records.map(lambda batch: tf.io.parse_example(batch, features)).as_numpy_iterator())
    if not parts:
        raise ValueError(f"no example in {', '.join(files) or 'no file'}, expected at least one")
    values: dict[str, np.ndarray] = {
        name: np.concatenate([part[name] for part in parts]) for name in features
    }
    del parts
    order = np.argsort(values[ID])
    values = {name: column[order] for name, column in values.items()}
    texts = {name: np.array([text.decode() for text in values.pop(name)], object) for name in (ID, DRUG)}
    for name, words in codes.items():
        place = {word.encode(): i for i, word in enumerate(words)}
        values[name] = np.array([place.get(word, -1) for word in values[name]], np.int32)
    scored, nonscored = values.pop(TARGETS), values.pop(NONSCORED, None)
    signatures = Signatures(spec, texts[ID], **values)
    return complete(
        Dataset(
            signatures,
            scored,
            panel.targets,
            texts[DRUG],
            nonscored,
            panel.nonscored,
            source=panel.source,
            simulated=panel.simulated,
        )
    )
