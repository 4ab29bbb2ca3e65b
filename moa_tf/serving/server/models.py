"""Models in service: versions found, loaded, swapped and let go while requests go on."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moa_tf.errors import InputError
from moa_tf.serving.server.batching import Batcher
from moa_tf.serving.server.errors import Code, Refused
from moa_tf.serving.server.policies import Policy
from moa_tf.serving.server.version import Version

log = logging.getLogger("moa_tf.server")

START, LOADING, AVAILABLE, UNLOADING, END = 10, 20, 30, 40, 50
"""States of a version, numbered as `ModelVersionStatus.State`."""


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
                number = self._labelled(model, label)
            if number is None and loaded:
                number = max(loaded)
            if number not in loaded:
                which = f"Latest({model})" if number is None else f"Specific({model}, {number})"
                raise Refused(Code.NOT_FOUND, f"Servable not found for request: {which}")
            version = loaded[number]
            version.users += 1
            return version

    def _labelled(self, model: str, label: str) -> int:
        policy = self.policies.get(model)
        if policy is None or label not in policy.labels:
            raise Refused(Code.NOT_FOUND, f"Unrecognized servable version label: {label}")
        return policy.labels[label]

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
                number = self._labelled(model, label)
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
                for label, number in policy.unserved_labels().items():
                    raise Refused(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label {label} to version {number}, which is not currently available for "
                        f"inference, of model {name}",
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
            _settle()
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
        surplus = sorted(number for number in loaded if number not in wanted)
        if policy and not served:
            surplus = surplus[:-1]
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
        """Forgets versions that nothing uses any more; whether there were any."""
        with self._lock:
            done = [(version.model, version.number) for version in self._leaving if version.users == 0]
            self._leaving = [version for version in self._leaving if version.users]
        for name, number in done:
            self._statuses[name][number].state = END
            log.info("%s version %d: out of service", name, number)
        return bool(done)


def _settle() -> None:
    """Gives back the memory of what is gone, and takes what stays from the garbage collector.

    TensorFlow's and the models' objects are many: walking through them takes the collector a fifth of a second, in
    which nothing is answered.
    """
    import ctypes

    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
