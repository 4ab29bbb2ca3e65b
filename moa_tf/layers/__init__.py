"""Layers that Keras lacks; each stands by itself."""

from moa_tf.layers.batch_ensemble import (
    BatchEnsembleBlocks,
    BatchEnsembleDense,
    EnsembleDense,
    MeanProbability,
)
from moa_tf.layers.batch_norm import FastBatchNormalization
from moa_tf.layers.category_embedding import CategoryEmbedding, NearestIndex
from moa_tf.layers.celu import CELU
from moa_tf.layers.connectivity import Connectivity
from moa_tf.layers.dropout import ByteDropout
from moa_tf.layers.entmax import Entmax15, Sparsemax, entmax15, sparsemax
from moa_tf.layers.ghost_batch_norm import GhostBatchNormalization
from moa_tf.layers.glu import FeatureTransformer, GatedLinearUnit
from moa_tf.layers.tabnet_attention import AttentiveTransformer
from moa_tf.layers.tabnet_decoder import RandomGroupMask, ReconstructionError, TabNetDecoder
from moa_tf.layers.tabnet_encoder import TabNetEncoder
from moa_tf.layers.weight_norm import WeightNormDense

__all__ = [
    "CELU",
    "AttentiveTransformer",
    "BatchEnsembleBlocks",
    "BatchEnsembleDense",
    "ByteDropout",
    "CategoryEmbedding",
    "Connectivity",
    "EnsembleDense",
    "Entmax15",
    "FastBatchNormalization",
    "FeatureTransformer",
    "GatedLinearUnit",
    "GhostBatchNormalization",
    "MeanProbability",
    "NearestIndex",
    "RandomGroupMask",
    "ReconstructionError",
    "Sparsemax",
    "TabNetDecoder",
    "TabNetEncoder",
    "WeightNormDense",
    "entmax15",
    "sparsemax",
]
