"""Versions of models in memory: found, loaded, warmed up, swapped and let go while requests go on."""

from __future__ import annotations

import gc
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moa_tf.errors import InputError
from moa_tf.serving.predict import ServedModel, load_model
from moa_tf.serving.server.batching import Arrays, Batcher, Step
from moa_tf.serving.server.errors import Code, Refused, invalid
from moa_tf.serving.server.tensors import Input, Inputs, from_proto
from moa_tf.serving.versions import versions
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
START, LOADING, AVAILABLE, UNLOADING, END = 10, 20, 30, 40, 50
"""States of a version, numbered as `ModelVersionStatus.State`."""


@dataclass(frozen=True)
class Policy:
    """Which versions of a model are to be in service.

    Attributes:
        root: the directory of its versions.
        latest: how many of the highest numbers; 0 for all.
        specific: these alone, whatever `latest` says.
        labels: name -> version.
    """

    root: Path
    latest: int = 1
    specific: tuple[int, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)

    def wanted(self) -> dict[int, Path]:
        """Number -> directory of those that are there."""
        there = {
            number: path for number, path in versions(self.root).items() if (path / "saved_model.pb").exists()
        }
        if self.specific:
            return {number: there[number] for number in self.specific if number in there}
        return {number: there[number] for number in sorted(there)[-self.latest :]}


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


@dataclass(eq=False)
class Status:
    """Of a version, loaded or not.

    Attributes:
        state: one of START to END.
        error: why it is not in service, if it failed.
        stamp: of the files that were tried.
    """

    state: int
    error: str = ""
    stamp: tuple[int, int] = (0, 0)


class Models:
    """All models in service.

    A new version is loaded and warmed up beside the old one, which goes on till then; then it takes its place, and the
    old one is let go once no request uses it.

    Args:
        policies: name -> which versions.
        batcher: computes.
        poll: seconds between two looks at the disk.
        observe: told of each batch, see `metrics`.
        changed: called after each look that changed something.
    """

    def __init__(
        self,
        policies: dict[str, Policy],
        batcher: Batcher,
        poll: float = 1.0,
        observe: Callable[..., None] = lambda *values: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.policies, self._batcher, self._poll = policies, batcher, poll
        self._observe, self._changed = observe, changed
        self._loaded: dict[str, dict[int, Version]] = {}
        self._leaving: list[Version] = []
        self._statuses: dict[str, dict[int, Status]] = {}
        self._lock = threading.Lock()  # of what is in service; held for moments
        self._looking = threading.Lock()  # held while models are loaded
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="versions", daemon=True)

    def start(self) -> None:
        """Loads what is there, then watches for more."""
        self.look()
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def ready(self) -> bool:
        """Whether each model has a version in service."""
        return all(self._loaded.get(name) for name in self.policies)

    def names(self) -> list[str]:
        return sorted(self.policies)

    def versions(self, model: str) -> list[int]:
        """Numbers of the versions in service."""
        with self._lock:
            return sorted(self._loaded.get(model, {}))

    def acquire(self, model: str, number: int | None = None, label: str | None = None) -> Version:
        """The version that a request is for, which stays till `release`.

        Raises:
            Refused: there is none.
        """
        with self._lock:
            loaded = self._loaded.get(model, {})
            if label:
                number = self.policies[model].labels.get(label) if model in self.policies else None
                if number is None:
                    raise Refused(Code.NOT_FOUND, f"Unrecognized servable version label: {label}")
            if number is None and loaded:
                number = max(loaded)
            if number not in loaded:
                which = f"Latest({model})" if number is None else f"Specific({model}, {number})"
                raise Refused(Code.NOT_FOUND, f"Servable not found for request: {which}")
            version = loaded[number]
            version.users += 1
            return version

    def release(self, version: Version) -> None:
        with self._lock:
            version.users -= 1

    def statuses(self, model: str, number: int | None = None, label: str | None = None) -> dict[int, Status]:
        """Number -> status of a model's versions, newest first.

        Raises:
            Refused: there is none.
        """
        with self._lock:
            known = dict(self._statuses.get(model, {}))
            if label:
                number = self.policies[model].labels.get(label) if model in self.policies else None
                if number is None:
                    raise Refused(Code.NOT_FOUND, f"Unrecognized servable version label: {label}")
            if number is not None and number not in known:
                raise Refused(Code.NOT_FOUND, f"Could not find version {number} of model {model}")
        if not known:
            raise Refused(Code.NOT_FOUND, f"Could not find any versions of model {model}")
        return {key: known[key] for key in sorted(known, reverse=True) if number in (None, key)}

    def configure(self, policies: dict[str, Policy]) -> None:
        """Takes other policies at once, and returns when what they want is loaded.

        Raises:
            Refused: a label of a version that is not in service then.
        """
        with self._looking:
            for name, policy in policies.items():
                missing = [label for label, number in policy.labels.items() if number not in policy.wanted()]
                if missing:
                    raise Refused(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label {missing[0]} to version {policy.labels[missing[0]]}, which is not "
                        f"currently available for inference, of model {name}",
                    )
            with self._lock:
                self.policies = dict(policies)
        self.look()

    def look(self) -> None:
        """Compares the disk with what is in service, once."""
        with self._looking:
            changed = False
            for name in {*self.policies, *self._loaded}:
                changed |= self._look_at(name)
            changed |= self._let_go()
        if changed:
            # TensorFlow's and the models' objects are many, and stay: walking through them takes the garbage
            # collector a fifth of a second, in which nothing is answered.
            gc.collect()
            gc.freeze()
            self._changed()

    def _watch(self) -> None:
        while not self._end.wait(self._poll):
            try:
                self.look()
            except Exception:
                log.exception("looking for versions failed")

    def _look_at(self, name: str) -> bool:
        policy = self.policies.get(name)
        try:
            wanted = policy.wanted() if policy else {}
        except OSError as error:
            log.warning("%s: cannot be read (%s)", policy.root if policy else name, error.strerror)
            return False
        loaded, statuses = self._loaded.setdefault(name, {}), self._statuses.setdefault(name, {})
        changed = False
        for number, path in wanted.items():
            if number not in loaded and (version := self._load(name, number, path, statuses)) is not None:
                with self._lock:
                    loaded[number] = version
                changed = True
        served = [number for number in wanted if number in loaded]
        # The last one stays where what is wanted could not be loaded, or its directory was removed.
        surplus = [number for number in loaded if number not in wanted]
        if policy and not served:
            surplus = surplus[:-1] if surplus else []
        for number in surplus:
            with self._lock:
                self._leaving.append(loaded.pop(number))
            statuses[number].state = UNLOADING
            changed = True
        return changed

    def _load(self, name: str, number: int, path: Path, statuses: dict[int, Status]) -> Version | None:
        try:
            stat = (path / "saved_model.pb").stat()
        except OSError:
            return None
        stamp = (stat.st_ino, stat.st_mtime_ns)
        status = statuses.get(number)
        if status is not None and status.state == END and status.error and status.stamp == stamp:
            return None  # the same files would fail again
        statuses[number] = status = Status(LOADING, stamp=stamp)
        try:
            version = Version(name, number, path, self._batcher, self._observe)
            played = version.warm_up()
        except (InputError, Refused, OSError, ValueError) as error:
            status.state, status.error = END, str(error)
            log.error("%s version %d: not taken into service: %s", name, number, error)
            return None
        status.state = AVAILABLE
        log.info("%s version %d: in service after %d warm-up requests", name, number, played)
        return version

    def _let_go(self) -> bool:
        with self._lock:
            done = [version for version in self._leaving if version.users == 0]
            self._leaving = [version for version in self._leaving if version.users]
        for version in done:
            self._statuses[version.model][version.number].state = END
            log.info("%s version %d: out of service", version.model, version.number)
        if not done:
            return False
        del done[:]
        gc.unfreeze()
        version = None
        gc.collect()
        _return_memory()
        return True


def _return_memory() -> None:
    """Has the C library hand back to the system what a model that is gone has freed."""
    import ctypes

    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def find_models(root: Path) -> dict[str, Path]:
    """Name -> directory of versions: `root` itself if it holds versions, else each directory in it that does.

    Raises:
        InputError: there is none.
    """
    if versions(root):
        return {root.resolve().name: root}
    below = sorted(root.iterdir()) if root.is_dir() else []
    found = {path.name: path for path in below if versions(path)}
    if not found:
        raise InputError(f"{root}: expected numbered versions of a model, or directories of them")
    strange: Sequence[str] = [name for name in found if set(name) & set(":/")]
    if strange:
        raise InputError(f"{root}: the name of a model cannot hold ':', which {strange[0]} does")
    return found
