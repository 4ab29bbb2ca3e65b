"""TabNet as a functional Keras model, and the same model with its masks as outputs."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from moa_tf.errors import InputError
from moa_tf.layers import CategoryEmbedding, TabNetEncoder


def TabNet(
    features: int,
    targets: int,
    *,
    n_d: int = 32,
    n_a: int = 32,
    n_steps: int = 1,
    gamma: float = 1.3,
    n_shared: int = 2,
    n_independent: int = 2,
    mask_type: str = "entmax",
    lambda_sparse: float = 0.0,
    virtual_batch_size: int | None = 128,
    momentum: float = 0.98,
    groups: Sequence[Sequence[int]] = (),
    category_sizes: Sequence[int] = (),
    embedding_dim: int = 1,
    output_bias: np.ndarray | None = None,
    seed: int | None = None,
    name: str = "tabnet",
) -> keras.Model:
    """TabNet with one linear multi-label head, as a functional model.

    The model's input is a dict: `features` [B, features] float32, and, with `category_sizes`, `categories`
    [B, len(category_sizes)] int32, whose embeddings join the features; each column's embedding is attended to
    as one group. The output is [B, targets] float32 logits. The defaults are those that won in the
    Mechanisms of Action competition.

    Source: Arik & Pfister, TabNet: Attentive Interpretable Tabular Learning, arXiv 1908.07442; choices that
    the paper leaves open as in pytorch-tabnet 4.1. Unlike there, the head has a bias, so that rare labels
    can start at their prior.

    Args:
        features: number of numeric features.
        targets: number of labels.
        n_d: width of a step's decision; see `TabNetEncoder` for this and the arguments up to `groups`.
        n_a: width of a step's attention.
        n_steps: number of decision steps.
        gamma: relaxation, at least 1.
        n_shared: shared GLU layers of a feature transformer.
        n_independent: own GLU layers of a feature transformer.
        mask_type: `sparsemax` or `entmax`.
        lambda_sparse: weight of the masks' entropy in the loss.
        virtual_batch_size: rows that are normalised together in training.
        momentum: of the moving statistics, in Keras's sense (pytorch-tabnet's is 1 minus this).
        groups: indices of numeric features that are attended to as one.
        category_sizes: number of categories of each categorical column.
        embedding_dim: width of each categorical column's embedding.
        output_bias: [targets] initial bias of the head; None for zeros.
        seed: of all initial values.
        name: of the model.

    Returns:
        A Keras model that trains with `compile` and `fit`, saves as `.keras` and exports.

    Raises:
        InputError: a setting out of its range.

    Examples:
        >>> import keras, numpy as np
        >>> from moa_tf.models.tabnet.network import TabNet, build_explainer
        >>> keras.utils.set_random_seed(0)
        >>> model = TabNet(features=20, targets=3, n_d=8, n_a=8, virtual_batch_size=32, seed=0)
        >>> loss = keras.losses.BinaryCrossentropy(from_logits=True)
        >>> model.compile(keras.optimizers.Adam(0.02), loss)
        >>> x = np.random.default_rng(0).normal(size=(256, 20)).astype("float32")
        >>> y = (x[:, :3] > 0).astype("float32")
        >>> history = model.fit({"features": x}, y, batch_size=128, epochs=20, verbose=0)
        >>> bool(history.history["loss"][-1] < 0.8 * history.history["loss"][0])
        True
        >>> explained = build_explainer(model).predict({"features": x}, verbose=0)
        >>> explained["importance"].shape, explained["masks"].shape
        ((256, 20), (256, 1, 20))
    """
    for label, value in (("features", features), ("targets", targets)):
        if value < 1:
            raise InputError(f"{label}={value}: expected at least 1")
    inputs = {"features": keras.Input((features,), dtype="float32", name="features")}
    x = inputs["features"]
    if category_sizes:
        columns = len(category_sizes)
        inputs["categories"] = keras.Input((columns,), dtype="int32", name="categories")
        embedding = CategoryEmbedding(category_sizes, embedding_dim, seed, name="embedding")
        x = keras.layers.Concatenate(name="with_embeddings")([x, embedding(inputs["categories"])])
        starts = range(features, features + columns * embedding_dim, embedding_dim)
        groups = [*groups, *(range(start, start + embedding_dim) for start in starts if embedding_dim > 1)]
    encoder = TabNetEncoder(
        n_d=n_d,
        n_a=n_a,
        n_steps=n_steps,
        gamma=gamma,
        n_shared=n_shared,
        n_independent=n_independent,
        mask_type=mask_type,
        lambda_sparse=lambda_sparse,
        virtual_batch_size=virtual_batch_size,
        momentum=momentum,
        groups=groups,
        seed=seed,
        name="encoder",
    )
    decision = encoder(x)["decision"]
    bias = "zeros" if output_bias is None else keras.initializers.Constant(np.asarray(output_bias).tolist())
    head = keras.layers.Dense(
        targets,
        kernel_initializer=keras.initializers.RandomNormal(stddev=n_d**-0.25, seed=seed),
        bias_initializer=bias,
        dtype="float32",
        name="logits",
    )
    return keras.Model(inputs, head(decision), name=name)


def build_explainer(network: keras.Model) -> keras.Model:
    """The network with its masks: shares its layers, so it explains what `network` is now and becomes.

    Args:
        network: a model of `TabNet`, built or loaded.

    Returns:
        A Keras model with the network's inputs and a dict of outputs: `logits` [B, T]; `masks`
        [B, n_steps, F], each step's rows summing to 1 over groups; `importance` [B, F], not negative, F
        counting the columns of embeddings too.

    Raises:
        InputError: the model is no TabNet.
    """
    encoders = [layer for layer in network.layers if isinstance(layer, TabNetEncoder)]
    if not encoders:
        raise InputError(f"model {network.name}: has no TabNet encoder, so it has no masks")
    # Keras gives a layer's outputs as a list, in the alphabetical order of the dict's keys.
    encoded = dict(zip(sorted(TabNetEncoder.OUTPUTS), encoders[0].output, strict=True))
    outputs = {"logits": network.output, "masks": encoded["masks"], "importance": encoded["importance"]}
    return keras.Model(network.input, outputs, name=f"{network.name}_explainer")
