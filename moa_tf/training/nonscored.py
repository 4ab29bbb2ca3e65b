"""What a second table of labels gives: targets that are never scored, as a task to learn from first.

Most of these mechanisms have few drugs, and some scored drug none of them; what tells them apart is learnt from more
rows' labels all the same. A network of the same family is trained on them, and then either

- `pretrain`: its weights are where the network of the scored targets starts, which gets a new head; or
- `stack`: its predictions are further features. Those of the training rows are out-of-fold inside the fold, so that
  the second stage learns how good they are for drugs that the first has not seen; others get the mean of the inner
  folds' networks, which become a part of the preprocessing.

Source: lish-moa's first place (3-stage network, 2-heads ResNet) and second place (1D-CNN).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from moa_tf.data.prior import label_sums, prior
from moa_tf.data.schema import Dataset
from moa_tf.data.storage import blocks
from moa_tf.errors import InputError
from moa_tf.training.choice import Choice
from moa_tf.training.fold import Fold, inner_folds
from moa_tf.training.inference import Inference
from moa_tf.training.network import NetworkData
from moa_tf.training.run import save

LARGEST_LOGIT = 5.0
"""In standard deviations: a network that is sure is not to drown what the others say."""


def as_task(dataset: Dataset, fold: Fold) -> tuple[Dataset, Fold]:
    """The dataset and the fold with the nonscored targets in the place of the scored ones.

    Args:
        dataset: all rows.
        fold: whose training rows decide which targets there are: those with a positive among the treated ones. As a
            head is known by its shape, one that is always 0 is added where they are as many as the scored.

    Raises:
        InputError: no nonscored targets, or none of them has a positive there.
    """
    if dataset.nonscored is None:
        raise InputError(
            f"nonscored: {dataset.source or 'the data'} has no train_targets_nonscored, expected such a table"
        )
    treated = fold.train[~dataset.signatures.control[fold.train]]
    found = np.flatnonzero(label_sums(dataset.nonscored, treated))
    if not len(found):
        raise InputError(
            f"nonscored: none of the {dataset.nonscored.shape[1]} targets has a positive in the {len(treated)} treated "
            "training rows"
        )
    columns = len(found) + (len(found) == dataset.targets.shape[1])
    targets = dataset.storage.empty((len(dataset), columns), np.float32)
    for part in blocks(len(dataset)):
        targets[part, : len(found)] = dataset.nonscored[part][:, found]
        targets[part, len(found) :] = 0
    task = dataclasses.replace(
        dataset, targets=targets, target_names=tuple(f"nonscored-{j}" for j in range(targets.shape[1]))
    )
    return task, dataclasses.replace(fold, prior=prior(targets, treated))


Choose = Callable[[Dataset, NetworkData, Path], Choice]
"""(dataset, data, directory) -> what the recipe leaves open, chosen on inner folds of the training rows."""
Fit = Callable[[Dataset, NetworkData, Choice, Path], keras.Model]
"""(dataset, data, choice, checkpoint) -> a network that is trained on the training rows of data.fold."""


class FirstStage:
    """Networks of the nonscored targets of one fold, trained as its network of the scored ones is to be.

    Args:
        dataset: all rows.
        data: the fold's features; the labels in it are not read.
        choose: says how to train.
        fit: trains.
        folds: how many inner folds a stack has.
        seed: of their choice.
        directory: where each network is kept when it is trained, so that none is twice.

    Raises:
        InputError: see `as_task`.
    """

    def __init__(
        self,
        dataset: Dataset,
        data: NetworkData,
        choose: Choose,
        fit: Fit,
        folds: int,
        seed: int,
        directory: Path,
    ) -> None:
        self.dataset, fold = as_task(dataset, data.fold)
        self.data = dataclasses.replace(data, targets=self.dataset.targets, fold=fold)
        self.fit, self.folds, self.seed, self.directory = fit, folds, seed, directory
        directory.mkdir(exist_ok=True)
        self.choice = choose(self.dataset, self.data, directory)

    def network(self, fold: Fold) -> keras.Model:
        """One trained on the training rows of `fold`, which are some of this fold's."""
        path = self.directory / f"{fold.name}.keras"
        if path.exists():
            return keras.saving.load_model(path, compile=False)
        treated = fold.train[~self.dataset.signatures.control[fold.train]]
        own = dataclasses.replace(fold, prior=prior(self.dataset.targets, treated))
        checkpoint = path.with_suffix(".npz")
        network = self.fit(self.dataset, dataclasses.replace(self.data, fold=own), self.choice, checkpoint)
        save(path, network.save)
        checkpoint.unlink(missing_ok=True)
        return network

    def join(self, name: str) -> tuple[keras.Model, np.ndarray]:
        """The preprocessing with the predictions of one network an inner fold as further features; see `join_stage`.

        Args:
            name: of the output that they are joined to.

        Raises:
            InputError: too few drugs to hold any out.
        """
        inner = inner_folds(self.data.fold, self.dataset, self.folds, self.seed)
        if len(inner) < 2:
            raise InputError(
                f"--stack nonscored: fold {self.data.fold.name} has too few drugs to hold any out, expected more"
            )
        position = np.full(len(self.dataset), -1)
        position[self.data.fold.train] = np.arange(len(self.data.fold.train))
        out_of_fold = np.full((len(self.data.fold.train), self.dataset.targets.shape[1]), np.nan, np.float32)
        networks = []
        for fold in inner:
            networks.append(self.network(fold))
            logits = Inference(networks[-1])(self.data.features, rows=fold.held_out)
            out_of_fold[position[fold.held_out]] = logits
        return join_stage(self.data.preprocessing, networks, name, out_of_fold)


def copy_body(source: keras.Model, network: keras.Model) -> None:
    """Copies the weights of all layers but those that hang on the number of targets, the head.

    Args:
        source: trained on another number of targets.
        network: of the same family, settings and features.

    Raises:
        InputError: they share no layer.
    """
    weights = {layer.name: layer.get_weights() for layer in source.layers}
    copied = 0
    for layer in network.layers:
        found = weights.get(layer.name, [])
        if layer.weights and [tuple(weight.shape) for weight in layer.weights] == [w.shape for w in found]:
            layer.set_weights(found)
            copied += 1
    if not copied:
        raise InputError(
            f"--pretrain nonscored: {network.name} has nothing beside its output layer that could be pretrained"
        )


def join_stage(
    preprocessing: keras.Model, networks: Sequence[keras.Model], name: str, out_of_fold: np.ndarray
) -> tuple[keras.Model, np.ndarray]:
    """The preprocessing with the networks' mean logits, standardised, as further features.

    Args:
        preprocessing: what the networks read.
        networks: from its outputs to [B, U] logits, one for each inner fold.
        name: of the output that they are joined to, as its last U columns; it is made where there is none.
        out_of_fold: [M, U] logits of the training rows, each by the network that has not seen its drug. A row that is
            NaN had none.

    Returns:
        Keras model from the same inputs, and [M, U] float32 what `out_of_fold` is among the features.
    """
    for number, network in enumerate(networks):
        network.trainable = False
        network.name = f"nonscored_{number}"
    logits = [keras.ops.cast(network(preprocessing.output), "float32") for network in networks]
    mean = keras.layers.Average(name="nonscored_mean")(logits) if len(logits) > 1 else logits[0]
    scale = keras.layers.Normalization(name="nonscored_scaled", dtype="float32")
    scale.adapt(out_of_fold[~np.isnan(out_of_fold).any(axis=1)])

    def scaled(values: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.clip(scale(values), -LARGEST_LOGIT, LARGEST_LOGIT)

    joined = scaled(mean)
    if name in preprocessing.output:
        joined = keras.layers.Concatenate(name="with_nonscored")([preprocessing.output[name], joined])
    model = keras.Model(preprocessing.input, {**preprocessing.output, name: joined}, name=preprocessing.name)
    return model, keras.ops.convert_to_numpy(scaled(keras.ops.convert_to_tensor(out_of_fold)))
