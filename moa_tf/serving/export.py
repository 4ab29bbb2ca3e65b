"""From fitted Keras models to one versioned SavedModel that needs nothing but TensorFlow.

A SavedModel of this project has the signatures

- `serving_default`: the raw signature by named inputs, `genes` [B, G] float32 and, as far as the panel has
  them, `cells` [B, C] float32, `cp_type` [B] string (`trt_cp`, `ctl_vehicle`), `cp_time` [B] float32 in
  hours, `cp_dose` [B] string (`D1`, `D2`); gives `probabilities` [B, T] float32.
- `serving_examples`: `examples` [B] string, serialised `tf.Example` with these inputs as features of the same
  names; `cp_time` as float or int64. Gives the same. (TFX has no fixed name for it; its input is called
  `examples` there too.)
- `classify`: `inputs` [B] string as `examples` above; gives `classes` [B, T] string, the mechanisms' names, and
  `scores` [B, T] float32, the most probable first. TensorFlow Serving's Classify, and `:classify` of its REST API,
  answer by it.
- `explain`, where the model can explain itself: inputs as in `serving_default`.

Refused with `InvalidArgumentError`, by the input's name: another shape than the one above, `[B, 1]` too, or another
number of rows than the other inputs have, as TensorFlow would repeat a single one for all; a value that is not finite,
as quantile layers would turn a NaN into an ordinary number; hours that are not above 0; a `cp_type` or `cp_dose` that
is not known. No rows (B = 0) give no rows.

Beside it lie a model card (`README.md`, `model_card.json`) and one warm-up request for each signature.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from moa_tf.atomic import sync_tree, temporary_directory, to_plain
from moa_tf.data.schema import CONTROL, HOURS_ABOVE, MICROMOLAR_ABOVE, TYPE_PREFIXES, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.serving.model_card import JSON, MARKDOWN, model_card, to_markdown
from moa_tf.serving.versions import METADATA, check_root, latest_version, load_metadata, publish
from moa_tf.serving.warmup import write_warmup

__all__ = ["export", "latest_version", "load_metadata"]

if TYPE_CHECKING:
    import tensorflow as tf

    from moa_tf.ensemble.ensemble import Ensemble
    from moa_tf.models.base import Member

Tensors = dict[str, "tf.Tensor"]


def export(
    ensemble: Ensemble,
    root: Path,
    *,
    spec: SignatureSpec,
    target_names: Sequence[str],
    metadata: Mapping[str, Any],
    explainer: Callable[[Tensors], Tensors] | None = None,
    assets: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Writes `root/<version>/`, with the number after the highest there, as a whole or not at all.

    p = combination over components of (mean over networks of sigmoid(network(preprocessing(x)))), and 0 for vehicle
    controls; of one run, its networks' mean. What several networks read alike is computed once.

    The SavedModel is written to a directory in `root` whose name is no number, which TensorFlow Serving's
    poller passes over, reaches the disk, and is renamed. A process killed before that leaves that `.tmp-…`
    directory behind, which can be deleted. Exporters that run at once get different versions.

    Args:
        ensemble: components of members, each a Keras model from a dict of `spec.inputs`, or of some of them, to a dict
            of features, and Keras models from that dict to [B, T] logits; see `Ensemble.of` for one run's.
        root: directory of the versions; made if it does not exist.
        spec: the panel.
        target_names: T names, in the order of the logits.
        metadata: what else should travel along: `fingerprint` of the training data, `metrics`, `simulated`,
            `ensemble` (how the members were made), the run's configuration, what a model card tells. Becomes JSON; NaN
            becomes null.
        explainer: gets the tensors of `spec.inputs` (cp_type and cp_dose as codes) and gives named tensors
            for the `explain` signature; a Keras model, or a function that calls some.
        assets: further files beside the metadata: name -> text.

    Returns:
        The new version's directory.

    Raises:
        InputError: `root` is no directory that can be written, is one that TensorFlow cannot load from (see
            `check_root`), or is a SavedModel itself; Keras does not run on TensorFlow.
        ValueError: no network, or a network's outputs do not fit the target names.
    """
    import keras

    root = Path(root)
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"export: Keras runs on {keras.backend.backend()}, expected tensorflow (KERAS_BACKEND=tensorflow)"
        )
    check_root(root)
    if (root / "saved_model.pb").exists():
        raise InputError(f"{root}: is a SavedModel itself, expected the directory of its versions")
    networks = ensemble.networks
    if not networks:
        raise ValueError("export: no network to export")
    for network in networks:
        width = network.output_shape[-1]
        if width != len(target_names):
            raise ValueError(f"export: a network gives {width} logits for {len(target_names)} target names")
    description = _describe(ensemble, spec, target_names, metadata, explainer is not None)
    with temporary_directory(root) as temporary:
        files = []
        for name, text in {METADATA: _json(description), **assets}.items():
            files.append(temporary / name)
            files[-1].write_text(text, encoding="utf-8")
        model = temporary / "model"
        _save(ensemble, model, spec, target_names, explainer, files)
        write_warmup(model, spec, description["signatures"])
        card = model_card(description)
        (model / JSON).write_text(_json(card), encoding="utf-8")
        (model / MARKDOWN).write_text(to_markdown(card), encoding="utf-8")
        sync_tree(model)
        return publish(model, root)


def suggest_batch_size(members: Sequence[Member]) -> int:
    """How many signatures to compute at once, see `fitting_batch_size`."""
    from moa_tf.training.inference import fitting_batch_size

    return fitting_batch_size(
        [model for member in members for model in (member.preprocessing, *member.networks)]
    )


def _describe(
    ensemble: Ensemble,
    spec: SignatureSpec,
    target_names: Sequence[str],
    metadata: Mapping[str, Any],
    explains: bool,
) -> dict[str, Any]:
    import keras
    import numpy as np
    import tensorflow as tf

    from moa_tf import __version__

    versions = {"moa-tf": __version__, "tensorflow": tf.__version__, "keras": keras.__version__}
    description = {
        **metadata,
        "targets": list(target_names),
        "spec": spec.to_dict(),
        "signatures": ["serving_default", "serving_examples", "classify"] + ["explain"] * explains,
        "networks": len(ensemble.networks),
        "batch_size": suggest_batch_size(ensemble.members),
        "combination": f"{ensemble.describe()}; vehicle controls 0",
        "versions": {**versions, "numpy": np.__version__},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return to_plain(description)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)


def _save(
    ensemble: Ensemble,
    directory: Path,
    spec: SignatureSpec,
    target_names: Sequence[str],
    explainer: Callable[[Tensors], Tensors] | None,
    assets: Sequence[Path],
) -> None:
    import tensorflow as tf

    def probabilities(inputs: Tensors) -> Tensors:
        return {"probabilities": ensemble.probabilities(inputs)}

    def ranked(inputs: Tensors) -> Tensors:
        scores, order = tf.math.top_k(ensemble.probabilities(inputs), len(target_names))
        return {"classes": tf.gather(tf.constant(list(target_names)), order), "scores": scores}

    # An input's order is that of `spec.inputs`; a signature's own order is alphabetical.
    raw = {
        name: tf.TensorSpec((None, *shape), tf.string if name in spec.codes else dtype, name)
        for name, (shape, dtype) in spec.inputs.items()
    }
    serialised = partial(tf.TensorSpec, (None,), tf.string)
    functions = {
        "serving_default": _trace(lambda **x: _of_rows(probabilities, _encode(x, spec), spec), **raw),
        "serving_examples": _trace(
            lambda examples: _of_rows(probabilities, _encode(_parse(examples, raw), spec), spec),
            serialised("examples"),
        ),
        "classify": _trace(
            lambda inputs: _of_rows(ranked, _encode(_parse(inputs, raw, "inputs"), spec), spec),
            serialised("inputs"),
        ),
    }
    if explainer is not None:
        functions["explain"] = _trace(lambda **x: _of_rows(explainer, _encode(x, spec), spec), **raw)
    model = tf.Module()
    # Only what the signatures read: no Keras objects, whose classes the reader may lack, nor dropout's seeds.
    captured = {id(v): v for function in functions.values() for v in function.graph.variables}
    model.weights = list(captured.values())
    model.assets = [tf.saved_model.Asset(str(path)) for path in assets]
    tf.saved_model.save(model, str(directory), signatures=functions)
    _name_method(directory, "classify", tf.saved_model.CLASSIFY_METHOD_NAME)


def _name_method(directory: Path, signature: str, method: str) -> None:
    """Says by which of TensorFlow Serving's calls a signature is to be called; `tf.saved_model.save` says Predict."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = directory / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    for graph in saved.meta_graphs:
        graph.signature_def[signature].method_name = method
    path.write_bytes(saved.SerializeToString())


def _trace(function: Callable, *specs: Any, **named: Any) -> Any:
    import tensorflow as tf

    return tf.function(function).get_concrete_function(*specs, **named)


def _of_rows(function: Callable[[Tensors], Tensors], inputs: Tensors, spec: SignatureSpec) -> Tensors:
    """`function(inputs)`, and of no rows none: not every network takes an empty batch, so it is given one row."""
    import tensorflow as tf

    rows = tf.shape(next(iter(inputs.values())))[0]
    blank = {name: tf.zeros((1, *shape), dtype) for name, (shape, dtype) in spec.inputs.items()}
    outputs = function(tf.cond(rows > 0, lambda: inputs, lambda: blank))
    # What has a number of rows that is known, such as a feature map, is not of the rows.
    return {
        name: value[:rows] if value.shape.rank and value.shape[0] is None else value
        for name, value in outputs.items()
    }


def _check_shapes(raw: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """The same tensors, once each is found to have the shape [B, *shape], with one B for all.

    The signature's own shapes are a promise that a loaded function does not check, and that TensorFlow counts on
    when it simplifies a graph: so they are read from tensors of which nothing is known.
    """
    import tensorflow as tf

    sizes = {
        name: tf.shape(tf.compat.v1.placeholder_with_default(raw[name], tf.TensorShape(None)))
        for name in shapes
    }
    checks = []
    for name, shape in shapes.items():
        fits = tf.logical_and(tf.size(sizes[name]) == 1 + len(shape), tf.reduce_all(sizes[name][1:] == shape))
        wanted = ", ".join(map(str, ("B", *shape)))
        checks.append(tf.debugging.Assert(fits, [f"{name}: expected the shape [{wanted}], got", sizes[name]]))
    with tf.control_dependencies(checks):
        rows = {name: tf.identity(size)[0] for name, size in sizes.items()}
    first = next(iter(rows))
    same = [
        tf.debugging.Assert(
            rows[name] == rows[first],
            [f"{name}: expected as many rows as {first} has,", rows[first], "got", rows[name]],
        )
        for name in rows
        if name != first
    ]
    with tf.control_dependencies([*checks, *same]):
        return {name: tf.identity(raw[name]) for name in shapes}


def _encode(raw: Tensors, spec: SignatureSpec) -> Tensors:
    """`spec.inputs` from the inputs of `serving_default`."""
    import tensorflow as tf

    raw = _check_shapes(raw, {name: shape for name, (shape, _) in spec.inputs.items()})
    inputs = {}
    for name in spec.inputs:
        value = raw[name]
        if name in spec.codes:
            value = _encode_words(name, value, spec.codes[name], inputs.get("cp_type"))
        elif name in ("genes", "cells") and spec.missing:
            tf.debugging.Assert(
                tf.logical_not(tf.reduce_any(tf.math.is_inf(value))),
                [f"{name}: expected finite numbers, or NaN where one is missing"],
            )
        elif name == "cp_dose":
            fits = tf.logical_and(value > MICROMOLAR_ABOVE, tf.math.is_finite(value))
            if "cp_type" in inputs:
                fits = tf.logical_or(fits, inputs["cp_type"] == CONTROL)
            tf.debugging.Assert(
                tf.reduce_all(fits), [f"{name}: expected micromolar above {MICROMOLAR_ABOVE}, got", value]
            )
        else:
            tf.debugging.Assert(
                tf.reduce_all(tf.math.is_finite(value)), [f"{name}: expected finite numbers only"]
            )
        if name == "cp_time":
            tf.debugging.Assert(
                tf.reduce_all(value > HOURS_ABOVE),
                [f"{name}: expected hours above {HOURS_ABOVE}, got", value],
            )
        inputs[name] = value
    return inputs


def _encode_words(name: str, value: tf.Tensor, words: Sequence[str], cp_type: tf.Tensor | None) -> tf.Tensor:
    """[B] int32 places in `words`, −1 for others: any cell line, and of a control any dose."""
    import tensorflow as tf

    if name == "cp_type":
        matches = tf.stack([tf.strings.regex_full_match(value, f"{prefix}.+") for prefix in TYPE_PREFIXES], 1)
        words = [f"{prefix}…" for prefix in TYPE_PREFIXES]
    else:
        matches = value[:, None] == tf.constant(words, tf.string, (len(words),))
    known = tf.reduce_any(matches, 1)
    fits = known
    if name == "cp_cell":
        fits = tf.ones_like(known)
    elif name == "cp_dose" and cp_type is not None:
        fits = tf.logical_or(known, cp_type == CONTROL)
    tf.debugging.Assert(tf.reduce_all(fits), [f"{name}: expected one of {', '.join(words)}, got", value])
    return tf.where(known, tf.argmax(matches, 1, tf.int32), -1)


def _parse(examples: tf.Tensor, raw: Mapping[str, tf.TensorSpec], name: str = "examples") -> Tensors:
    """The inputs of `serving_default` from [B] serialised tf.Example, the input `name`."""
    import tensorflow as tf

    examples = _check_shapes({name: examples}, {name: ()})[name]
    numbers = [name for name in ("cp_time", "cp_dose") if name in raw and raw[name].dtype != tf.string]
    features = {
        name: tf.io.FixedLenFeature(spec.shape[1:], spec.dtype)
        for name, spec in raw.items()
        if name not in numbers
    }
    inputs = tf.io.parse_example(examples, features) if features else {}
    for name in numbers:
        inputs[name] = _parse_number(examples, name)
    return inputs


def _parse_number(examples: tf.Tensor, name: str) -> tf.Tensor:
    """[B] float32 from a feature that may hold a float or an int64, which `parse_example` cannot read.

    A CSV's whole hours become int64 in most converters, and float32 in others.
    """
    import tensorflow as tf

    # Nothing decodes an empty batch; the last one is dropped again.
    one = tf.train.Example()
    one.features.feature[name].float_list.value.append(1.0)
    examples = tf.concat([examples, [one.SerializeToString()]], 0)

    def decode(messages: tf.Tensor, kind: str, *names: str, dtype: tf.DType = tf.string) -> Any:
        return tf.io.decode_proto(messages, f"tensorflow.{kind}", list(names), [dtype] * len(names))

    # TensorFlow Serving puts a context's bytes before an example's: several messages that are one when merged, which is
    # to say joined. A BytesList has the same number for its field, and that one may be there several times.
    features = tf.strings.reduce_join(decode(examples, "BytesList", "value").values[0], axis=1)
    entries = decode(features, "Features", "feature").values[0]
    keys, values = (part[:, :, 0] for part in decode(entries, "Features.FeatureEntry", "key", "value").values)
    matches = keys == name
    expected = [f"{name}: expected one float or int64 in each example"]
    tf.debugging.Assert(tf.reduce_all(tf.reduce_any(matches, 1)), expected)
    # Of a feature that is there twice the last one counts, as for `parse_example`.
    last = tf.shape(matches)[1] - 1 - tf.argmax(tf.reverse(matches, [1]), 1, tf.int32)
    lists = decode(tf.gather(values, last, batch_dims=1), "Feature", "float_list", "int64_list").values
    floats = decode(lists[0][:, 0], "FloatList", "value", dtype=tf.float32)
    integers = decode(lists[1][:, 0], "Int64List", "value", dtype=tf.int64)
    tf.debugging.Assert(tf.reduce_all(floats.sizes + integers.sizes == 1), expected)
    # Where the one list is empty it is read as a 0.
    values = tf.reduce_sum(floats.values[0], 1) + tf.cast(tf.reduce_sum(integers.values[0], 1), tf.float32)
    return values[:-1]
