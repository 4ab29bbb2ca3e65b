"""Tables of signatures: schema, reading and checking, folds, the simulated sample."""

from moa_tf.data.schema import CONTROL, DOSES, TREATMENT, TYPES, Dataset, Signatures, SignatureSpec

__all__ = ["CONTROL", "DOSES", "TREATMENT", "TYPES", "Dataset", "SignatureSpec", "Signatures"]
