"""DeepInsight (Sharma et al. 2019): signatures drawn as images, read by an EfficientNet."""

from moa_tf.models.deepinsight.family import FAMILY, PRESETS, DeepInsightConfig, build, fit_preprocessing

__all__ = ["FAMILY", "PRESETS", "DeepInsightConfig", "build", "fit_preprocessing"]
