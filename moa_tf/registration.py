"""Keras knows what this project's files name as soon as both are imported, in either order.

Importing `moa_tf` must not import Keras, which takes seconds. So the classes are registered at once where Keras is
there, and else at the end of its import.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

MODULES = ("moa_tf.layers", "moa_tf.preprocessing", "moa_tf.training.losses", "moa_tf.training.optimizers")
"""Where the classes are that a run's `.keras` files name; none of them imports TensorFlow."""


def with_keras() -> None:
    """Registers the classes now if Keras is imported, else when it is."""
    keras = sys.modules.get("keras")
    if keras is None or getattr(keras.__spec__, "_initializing", False):
        sys.meta_path.insert(0, _AfterKeras())
    else:
        _register()


def _register() -> None:
    try:
        for module in MODULES:
            importlib.import_module(module)
    except Exception as error:
        # Keras itself is not to fail for this.
        warnings.warn(f"moa_tf: its layers are not registered with Keras ({error})", stacklevel=2)


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Finds Keras as the finders after it do, and has the classes registered at the end of its import.

    It stays until then: being found is not being imported, as TensorFlow looks whether Keras is there.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "keras":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """Keras's own loader, and then `_register`."""

    def __init__(self, loader: importlib.abc.Loader, finder: _AfterKeras) -> None:
        self.loader, self.finder = loader, finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module is as if this loader had not been: tools that read sources ask for Keras's own.
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        _register()
