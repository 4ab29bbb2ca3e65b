
from moa_tf.layers.weight_norm import WeightNormDense
