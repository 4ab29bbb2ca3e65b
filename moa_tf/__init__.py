"""moa-tf: mechanisms of action from gene expression and cell viability."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moa_tf import registration
from moa_tf.errors import InputError

if TYPE_CHECKING:
    from moa_tf.api.compare import compare
    from moa_tf.api.data import read_dataset
    from moa_tf.api.estimator import MoAClassifier, neg_log_loss
    from moa_tf.api.explain import explain
    from moa_tf.api.predict import load_model
    from moa_tf.api.rank import rank
    from moa_tf.api.train import train
    from moa_tf.api.tune import tune
    from moa_tf.training.reporter import LogReporter, Reporter

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "LogReporter",
    "MoAClassifier",
    "Reporter",
    "__version__",
    "compare",
    "explain",
    "load_model",
    "neg_log_loss",
    "rank",
    "read_dataset",
    "train",
    "tune",
]

_HOMES = {
    "LogReporter": "moa_tf.training.reporter",
    "MoAClassifier": "moa_tf.api.estimator",
    "Reporter": "moa_tf.training.reporter",
    "compare": "moa_tf.api.compare",
    "explain": "moa_tf.api.explain",
    "load_model": "moa_tf.api.predict",
    "neg_log_loss": "moa_tf.api.estimator",
    "rank": "moa_tf.api.rank",
    "read_dataset": "moa_tf.api.data",
    "train": "moa_tf.api.train",
    "tune": "moa_tf.api.tune",
}
"""Name -> the module that is imported when it is asked for: `import moa_tf` itself takes no time."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


registration.with_keras()
