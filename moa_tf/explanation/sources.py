"""What can be explained: a run directory or an exported model, behind one face."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.errors import InputError

FAMILIES = ("tabnet", "deepinsight")


class Explanation(NamedTuple):
    """Of B signatures.

    Attributes:
        importance: [B, R], see `Source.columns`.
        probabilities: [B, T] of the mechanisms.
        features: [B, F] scaled features that a DeepInsight's images are drawn from, else None.
    """

    importance: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray | None


@dataclass(frozen=True)
class Source:
    """A model that gives importance.

    Attributes:
        spec: the panel that it takes.
        columns: R names of the columns that importance is given for.
        targets: T names of mechanisms.
        explain: computes a few signatures at a time, as an image model's memory demands.
        pixels: [F, 2] row and column of each feature in a DeepInsight's image, else None.
        image_size: pixels on a side of that image.
    """

    spec: SignatureSpec
    columns: tuple[str, ...]
    targets: tuple[str, ...]
    explain: Callable[[Signatures], Explanation]
    pixels: np.ndarray | None = None
    image_size: int = 0


def open_source(path: Path) -> Source:
    """Loads a run (it has a `run.json`) or an exported model, whichever `path` is.

    Raises:
        InputError: neither, or a model of a family that cannot explain itself.
    """
    return _open_run(path) if (path / "run.json").is_file() else _open_saved_model(path)


def run_explainer(model: str, members: Any) -> Any:
    """The explainer of a family, from raw inputs to named tensors; None where the family has none.

    Args:
        model: the family's name.
        members: (preprocessing, its networks) for each fold.

    Returns:
        A function that `moa_tf.serving.export.export` takes as `explainer`.
    """
    if model == "tabnet":
        from moa_tf.explanation.masks import ensemble_explainer

        return ensemble_explainer(members)
    if model == "deepinsight":
        from moa_tf.explanation.grad_cam import explainer

        return explainer(members)
    return None


def _columns(model: str, spec: SignatureSpec) -> tuple[str, ...]:
    from moa_tf.explanation.masks import importance_columns

    return importance_columns(spec) if model == "tabnet" else spec.features


def _read_outputs(outputs: Mapping[str, Any], targets: int) -> Explanation:
    """Grad-CAM explains one mechanism a signature: that gets probability 1."""
    if "importance" in outputs:
        return Explanation(outputs["importance"].numpy(), outputs["probabilities"].numpy(), None)
    activation = outputs["activation"].numpy()
    sums = activation.sum(axis=1, keepdims=True)
    one_hot = np.eye(targets, dtype=np.float32)[outputs["target"].numpy()]
    return Explanation(activation / np.where(sums > 0, sums, 1.0), one_hot, outputs["features"].numpy())


def _open_run(path: Path) -> Source:
    import tensorflow as tf

    from moa_tf.serving.export import suggest_batch_size
    from moa_tf.training.run import Run, load_members

    description = Run(path).description
    model, targets = description["model"], tuple(description["targets"])
    if model not in FAMILIES:
        raise InputError(f"{path}: is a run of {model}; expected one of {', '.join(FAMILIES)}")
    spec = SignatureSpec.from_dict(description["panel"])
    members = load_members(path)
    function = tf.function(run_explainer(model, members), reduce_retracing=True)

    def explain(signatures: Signatures) -> dict[str, Any]:
        return function({name: tf.constant(value) for name, value in signatures.inputs().items()})

    return _source(model, spec, targets, explain, suggest_batch_size(members))


def _open_saved_model(path: Path) -> Source:
    from moa_tf.serving.predict import load_model, raw_inputs

    served = load_model(path)
    model = served.metadata.get("model")
    if "explain" not in served.loaded.signatures or model not in FAMILIES:
        raise InputError(
            f"{served.path}: a {model} without the signature explain; expected an export of "
            + " or ".join(FAMILIES)
        )
    signature = served.loaded.signatures["explain"]

    def explain(signatures: Signatures) -> dict[str, Any]:
        return signature(**raw_inputs(signatures))

    batch_size = served.metadata.get("batch_size", 32)
    return _source(model, served.spec, served.target_names, explain, batch_size)


def _source(
    model: str,
    spec: SignatureSpec,
    targets: tuple[str, ...],
    outputs_of: Callable[[Signatures], dict[str, Any]],
    batch_size: int,
) -> Source:
    def explain(signatures: Signatures) -> Explanation:
        starts = range(0, max(len(signatures), 1), batch_size)
        parts = [
            _read_outputs(outputs_of(signatures.take(np.s_[start : start + batch_size])), len(targets))
            for start in starts
        ]
        together = zip(*parts, strict=True)
        return Explanation(*(None if several[0] is None else np.concatenate(several) for several in together))

    columns = _columns(model, spec)
    if model != "deepinsight":
        return Source(spec, columns, targets, explain)
    # The map is among the explanation's outputs, whatever the signature.
    outputs = outputs_of(_placeholder(spec))
    return Source(spec, columns, targets, explain, outputs["pixels"].numpy(), int(outputs["image_size"]))


def _placeholder(spec: SignatureSpec) -> Signatures:
    inputs = {name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in spec.inputs.items()}
    return Signatures(spec, np.array(["none"], object), **inputs)
