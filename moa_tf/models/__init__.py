"""Model families. Each module gives a frozen config, `build`, and a `FAMILY` that joins them."""

from moa_tf.models.base import FAMILIES, Family, ModelConfig, get_family

__all__ = ["FAMILIES", "Family", "ModelConfig", "get_family"]
