"""Which arithmetic a network is trained in, where that is left open."""

from __future__ import annotations

from typing import Any

from moa_tf.models.base import Family
from moa_tf.training.strategy import Device

AUTO, FULL, HALF = "auto", "float32", "mixed_bfloat16"


def choose_precision(asked: str, family: Family, architecture: Any, device: Device) -> tuple[str, str]:
    """The Keras dtype policy, and in words why, where `asked` is `auto`.

    bfloat16 has float32's range, so losses need no scaling; weights, moments, statistics and logits stay in float32
    in either. On CPUs and GPUs it is chosen where it was measured to be faster (`benchmarks/README.md`);
    TPUs go by their maker's rates.

    Args:
        asked: one of `PRECISIONS`.
        family: that is trained.
        architecture: its hyperparameters.
        device: on which.

    Returns:
        `asked`, and nothing to say; for `auto` either of `float32` and `mixed_bfloat16`.
    """
    if asked != AUTO:
        return asked, ""
    if family.solve is not None:
        return FULL, f"{family.name} is solved in it"
    if not device.bfloat16:
        return FULL, f"{device} does not multiply matrices in bfloat16"
    if not family.bfloat16(device.kind, architecture):
        return (
            FULL,
            f"{device} multiplies matrices in bfloat16, but {family.name} of this size does not gain by it",
        )
    return HALF, f"{device} multiplies matrices in bfloat16"
