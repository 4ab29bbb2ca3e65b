"""Model families. Each module or folder gives a frozen config, `build`, and a `FAMILY` that joins them.

What needs Keras is imported when it is first asked for.
"""

import importlib
from typing import Any

from moa_tf.models.base import FAMILIES, Family, Hyperparameters, ModelConfig, get_family

_MODULES = {
    "MLPConfig": "moa_tf.models.mlp",
    "ResNetConfig": "moa_tf.models.resnet",
    "CNN1DConfig": "moa_tf.models.cnn1d",
    "RecurrentConfig": "moa_tf.models.recurrent",
    "TabNet": "moa_tf.models.tabnet",
    "TabNetConfig": "moa_tf.models.tabnet",
    "DeepInsightConfig": "moa_tf.models.deepinsight",
}

__all__ = ["FAMILIES", "Family", "Hyperparameters", "ModelConfig", "get_family", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
