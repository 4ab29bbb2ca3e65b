"""TabNet (Arik & Pfister, arXiv 1908.07442)."""

from moa_tf.models.tabnet.family import FAMILY, PRESETS, TabNetConfig, build, fit_preprocessing
from moa_tf.models.tabnet.network import TabNet, build_explainer

__all__ = ["FAMILY", "PRESETS", "TabNet", "TabNetConfig", "build", "build_explainer", "fit_preprocessing"]
