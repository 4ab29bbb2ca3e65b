"""Layers from raw signature to features or image; those with adapt() are fitted on the training fold."""

from moa_tf.preprocessing.columns import CorrelationOrder, MostVariable
from moa_tf.preprocessing.feature_map import FeatureMap
from moa_tf.preprocessing.features import PrincipalComponents, RowStatistics, VarianceThreshold
from moa_tf.preprocessing.image import FeatureImage, SwapNoise
from moa_tf.preprocessing.image_scaling import MinMaxScaling, Norm2Scaling
from moa_tf.preprocessing.inputs import make_inputs
from moa_tf.preprocessing.missing import MedianImputation
from moa_tf.preprocessing.quantile import QuantileToNormal
from moa_tf.preprocessing.treatment import DoseEncoding, LogDose, OneHot, TimeEncoding

__all__ = [
    "CorrelationOrder",
    "DoseEncoding",
    "LogDose",
    "MedianImputation",
    "OneHot",
    "FeatureImage",
    "FeatureMap",
    "MinMaxScaling",
    "MostVariable",
    "Norm2Scaling",
    "PrincipalComponents",
    "QuantileToNormal",
    "RowStatistics",
    "SwapNoise",
    "TimeEncoding",
    "VarianceThreshold",
    "make_inputs",
]
