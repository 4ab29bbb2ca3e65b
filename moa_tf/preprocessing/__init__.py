"""Layers from raw signature to features or image; those with adapt() are fitted on the training fold."""

from moa_tf.preprocessing.features import PrincipalComponents, RowStatistics, VarianceThreshold
from moa_tf.preprocessing.missing import MedianImputation
from moa_tf.preprocessing.quantile import QuantileToNormal
from moa_tf.preprocessing.treatment import DoseEncoding, LogDose, OneHot, TimeEncoding

__all__ = [
    "DoseEncoding",
    "LogDose",
    "MedianImputation",
    "OneHot",
    "PrincipalComponents",
    "QuantileToNormal",
    "RowStatistics",
    "TimeEncoding",
    "VarianceThreshold",
]
