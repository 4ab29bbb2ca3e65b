"""ExampleGen for tables of signatures: CSV or Parquet, one file or parts, a drug's rows in one split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import numpy as np
from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2
from tfx.types import standard_component_specs as standard

from moa_tf.data.faults import Faults
from moa_tf.data.opening import find_table, open_table
from moa_tf.data.read import iter_features, read_targets
from moa_tf.data.scan import load_drugs, rows_at
from moa_tf.errors import InputError
from pipelines.examples import DRUG, ID, Panel, to_examples

if TYPE_CHECKING:
    import tensorflow as tf

TRAIN, EVAL, PREDICT = "train", "eval", "predict"
"""Splits. `eval` is what blesses a model or does not: no row of it, nor of its drugs, is trained on."""

BUCKETS = {TRAIN: 4, EVAL: 1}
"""How many fifths of the drugs each split gets."""


def signature_example_gen(directory: Path, panel: Panel, digest: str) -> FileBasedExampleGen:
    """Examples of the training tables in `directory`, in the splits `train` and `eval`.

    Args:
        directory: in the competition's layout.
        panel: what is read.
        digest: of the tables; another one has them read again, where the component would come from the cache.
    """
    split = example_gen_pb2.SplitConfig(
        splits=[
            example_gen_pb2.SplitConfig.Split(name=name, hash_buckets=buckets)
            for name, buckets in BUCKETS.items()
        ],
        partition_feature_name=DRUG,
    )
    return _example_gen(directory, "train_features*", panel, digest, split)


def predict_example_gen(features: Path, panel: Panel, digest: str) -> FileBasedExampleGen:
    """Examples without labels of one features table, all in the split `predict`."""
    split = example_gen_pb2.SplitConfig(
        splits=[example_gen_pb2.SplitConfig.Split(name=PREDICT, hash_buckets=1)]
    )
    made = _example_gen(features.parent, features.name, panel, digest, split, labels=False)
    return made.with_id("PredictExampleGen")


def _example_gen(
    directory: Path,
    pattern: str,
    panel: Panel,
    digest: str,
    split: example_gen_pb2.SplitConfig,
    labels: bool = True,
) -> FileBasedExampleGen:
    config = {"panel": panel.to_dict(), "digest": digest, "labels": labels}
    packed = example_gen_pb2.CustomConfig()
    packed.custom_config.Pack(_text(json.dumps(config)))
    return FileBasedExampleGen(
        input_base=str(directory),
        input_config=example_gen_pb2.Input(
            splits=[example_gen_pb2.Input.Split(name="table", pattern=pattern)]
        ),
        output_config=example_gen_pb2.Output(split_config=split),
        custom_config=packed,
        custom_executor_spec=executor_spec.BeamExecutorSpec(SignatureExecutor),
    )


def _text(text: str) -> Any:
    from google.protobuf import wrappers_pb2

    return wrappers_pb2.StringValue(value=text)


class SignatureExecutor(BaseExampleGenExecutor):
    """Reads tables by the package's own readers, and counts what comes out."""

    def GetInputSourceToExamplePTransform(self) -> Any:
        """The transform from the tables to examples."""
        return _table_to_examples


@beam.ptransform_fn
def _table_to_examples(pipeline: beam.Pipeline, exec_properties: dict[str, Any], pattern: str) -> Any:
    directory = Path(exec_properties[standard.INPUT_BASE_KEY])
    config = _config(exec_properties)
    panel = Panel.from_dict(config["panel"])
    table = _table(directory, "train_features") if config["labels"] else directory / pattern
    parts = sorted(map(str, table.iterdir())) if table.is_dir() else [str(table)]
    parts = [part for part in parts if not Path(part).name.startswith((".", "_"))]
    labels = str(directory) if config["labels"] else ""
    examples = (
        pipeline
        | "Parts" >> beam.Create(parts)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(_ReadPart(panel, labels))
    )
    if labels:
        _ = (
            examples
            | "Ids" >> beam.Map(_id)
            | "TimesEach" >> beam.combiners.Count.PerElement()
            | "Tally" >> beam.CombineGlobally(_Tally())
            | "CheckCounts" >> beam.Map(_check_counts, labels)
        )
    return examples


def _config(exec_properties: dict[str, Any]) -> dict[str, Any]:
    from google.protobuf import wrappers_pb2
    from tfx.utils import proto_utils

    packed = example_gen_pb2.CustomConfig()
    proto_utils.json_to_proto(exec_properties[standard.CUSTOM_CONFIG_KEY], packed)
    text = wrappers_pb2.StringValue()
    packed.custom_config.Unpack(text)
    return json.loads(text.value)


def _table(directory: Path, stem: str) -> Path:
    faults = Faults()
    path = find_table(directory, stem, faults)
    faults.raise_if_any()
    assert path is not None
    return path


class _ReadPart(beam.DoFn):
    """From a part of a features table to its examples, with the labels and drugs of their signatures."""

    def __init__(self, panel: Panel, labels: str) -> None:
        self.panel, self.labels = panel, labels

    def setup(self) -> None:
        self.targets = self.nonscored = self.drugs = None
        if not self.labels:
            return
        directory = Path(self.labels)
        self.targets = read_targets(_table(directory, "train_targets_scored"))
        if self.panel.nonscored:
            self.nonscored = read_targets(_table(directory, "train_targets_nonscored"))
        faults = Faults()
        path = find_table(directory, "train_drug", faults, required=False)
        self.drugs = load_drugs(open_table(path, faults), None, faults, lambda line: None) if path else None
        faults.raise_if_any()

    def process(self, part: str) -> Iterator[tf.train.Example]:
        for chunk in iter_features(part, self.panel.spec):
            ids = chunk.sig_id
            if self.targets is None:
                yield from to_examples(chunk)
                continue
            drugs = ids if self.drugs is None else rows_at(self.drugs.drug_id, self.drugs.sig_id, ids)
            nonscored = None if self.nonscored is None else self.nonscored.at(ids)
            yield from to_examples(
                chunk, np.where(chunk.control, ids, drugs), self.targets.at(ids), nonscored
            )


def _id(example: tf.train.Example) -> bytes:
    return example.features.feature[ID].bytes_list.value[0]


class _Tally(beam.CombineFn):
    """(distinct ids, rows)."""

    def create_accumulator(self) -> tuple[int, int]:
        return 0, 0

    def add_input(self, accumulator: tuple[int, int], element: tuple[bytes, int]) -> tuple[int, int]:
        return accumulator[0] + 1, accumulator[1] + element[1]

    def merge_accumulators(self, accumulators: Any) -> tuple[int, int]:
        first, second = zip(*accumulators, strict=True)
        return sum(first), sum(second)

    def extract_output(self, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator


def _check_counts(tally: tuple[int, int], directory: str) -> None:
    """Every signature came out once, and none is lost: as many as there are labels."""
    distinct, rows = tally
    expected = len(read_targets(_table(Path(directory), "train_targets_scored")).sig_id)
    if not distinct == rows == expected:
        raise InputError(
            f"{directory}: {rows} examples of {distinct} signatures, expected one for each of {expected} in "
            "train_targets_scored"
        )
