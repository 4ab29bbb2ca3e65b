"""One version of a model in memory: its signatures as functions of batches, and its warm-up."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moa_tf.serving.predict import ServedModel, load_model
from moa_tf.serving.server.batching import Arrays, Batcher, Step
from moa_tf.serving.server.errors import Code, Refused, invalid
from moa_tf.serving.server.tensors import Input, Inputs, from_proto
from moa_tf.serving.warmup import FILE

if TYPE_CHECKING:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

log = logging.getLogger("moa_tf.server")

_OWN = re.compile(r"assertion failed: \[(.*?)\](?:\s|$)", re.DOTALL)
_PARSER = re.compile(r"Name: [^,\n]*, ((?:Feature|Key): .*)")

DEFAULT = "serving_default"
CLASSIFY = "classify"
WARM_UPS = 1000
"""The most requests of a warm-up file that are played, as TensorFlow Serving has it."""


class Signature:
    """One of a version's functions."""

    def __init__(
        self,
        function: Any,
        rows: int,
        batcher: Batcher,
        computed: Callable[[int, int], None] = lambda rows, requests: None,
    ) -> None:
        specs = function.structured_input_signature[1]
        self.inputs: Inputs = {
            name: Input(tuple(spec.shape[1:]), spec.dtype.name) for name, spec in sorted(specs.items())
        }
        self._function, self._batcher = function, batcher
        of_rows = frozenset(
            name
            for name, output in function.structured_outputs.items()
            if output.shape.rank and output.shape[0] is None
        )
        self.step = Step(self._compute, rows, of_rows, computed)

    def submit(self, inputs: Arrays, rows: int) -> Future:
        return self._batcher.submit(self.step, inputs, rows)

    def _compute(self, inputs: Arrays) -> Arrays:
        import tensorflow as tf

        tensors = {
            name: tf.constant(value, tf.string if self.inputs[name].is_text else tf.float32)
            for name, value in inputs.items()
        }
        try:
            outputs = self._function(**tensors)
        except tf.errors.OpError as error:
            raise _refusal(error) from None
        except UnicodeDecodeError:  # of its message, which quotes the input
            raise invalid("expected texts in UTF-8") from None
        return {name: value.numpy() for name, value in outputs.items()}


def _refusal(error: Any) -> Refused:
    """An error of TensorFlow's as an answer: of bad input what was expected, else nothing of the inside."""
    import tensorflow as tf

    if not isinstance(error, (tf.errors.InvalidArgumentError, tf.errors.DataLossError)):
        log.error("computing failed: %s", error)
        code = (
            Code.RESOURCE_EXHAUSTED if isinstance(error, tf.errors.ResourceExhaustedError) else Code.INTERNAL
        )
        return Refused(code, "computing failed")
    # `assertion failed: [what was expected] [values]` of the model's own checks, perhaps behind an operation's name, or
    # what the parser of examples says behind `Name: <unknown>, `.
    told = _OWN.search(error.message) or _PARSER.search(error.message)
    return invalid(told[1][:500] if told else "the input is not valid")


class Version:
    """A version that is loaded.

    Attributes:
        model: its model's name.
        number: its own.
        served: the SavedModel.
        signatures: name -> function.
    """

    def __init__(
        self, model: str, number: int, path: Path, batcher: Batcher, observe: Callable[..., None]
    ) -> None:
        self.model, self.number = model, number
        self.served: ServedModel = load_model(path)
        self.signatures = {
            name: Signature(
                function,
                max(1, self.served.batch_size),
                batcher,
                lambda rows, requests, name=name: observe(model, name, rows, requests),
            )
            for name, function in self.served.loaded.signatures.items()
        }
        self.users = 0

    def signature(self, name: str) -> Signature:
        """Raises `Refused` if there is none of that name."""
        if name not in self.signatures:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        return self.signatures[name]

    @cached_property
    def signature_defs(self) -> dict[str, Any]:
        """Name -> SignatureDef, as the SavedModel has them."""
        from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

        saved = SavedModel.FromString((self.served.path / "saved_model.pb").read_bytes())
        return dict(saved.meta_graphs[0].signature_def)

    def warm_up(self) -> int:
        """Plays the requests that lie beside the model; how many.

        Raises:
            Refused: one fails.
        """
        path, played = self.served.path / FILE, 0
        if not path.exists():
            return 0
        for request in _warm_ups(path):
            kind = request.WhichOneof("log_type")
            if kind == "predict_log":
                asked = request.predict_log.request
                signature = self.signature(asked.model_spec.signature_name or DEFAULT)
                inputs = {
                    name: from_proto(name, asked.inputs[name], expected, 1 << 20)
                    for name, expected in signature.inputs.items()
                }
            elif kind == "classify_log":
                asked = request.classify_log.request
                signature = self.signature(asked.model_spec.signature_name or DEFAULT)
                inputs = {"inputs": examples_of(asked.input)}
            else:
                continue
            signature.submit(inputs, len(next(iter(inputs.values())))).result()
            played += 1
        return played


def _warm_ups(path: Path) -> Iterator[PredictionLog]:
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    for record in tf.data.TFRecordDataset(str(path)).take(WARM_UPS).as_numpy_iterator():
        yield PredictionLog.FromString(record)


def examples_of(given: Any) -> np.ndarray:
    """[B] serialised examples of a gRPC `Input`, with the context's features in each.

    Raises:
        Refused: none.
    """
    kind = given.WhichOneof("kind")
    if kind == "example_list":
        examples = [example.SerializeToString() for example in given.example_list.examples]
    elif kind == "example_list_with_context":
        # Merged messages are the concatenated ones; an example's own features win over the context's.
        context = given.example_list_with_context.context.SerializeToString()
        examples = [
            context + example.SerializeToString() for example in given.example_list_with_context.examples
        ]
    else:
        examples = []
    if not examples:
        raise invalid("Input is empty.")
    return np.array(examples, object)
