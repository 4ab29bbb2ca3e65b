"""One drug-held-out fold of a data directory, as `moa-tf train` makes, trains and judges it."""

from __future__ import annotations

import numpy as np

from moa_tf.config import override
from moa_tf.data.read import read_dataset
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.models.base import get_family
from moa_tf.training.cross_validation import Validation, make_folds
from moa_tf.training.follow import probabilities
from moa_tf.training.inference import Inference
from moa_tf.training.network import NetworkData, train_network
from moa_tf.training.strategy import Placement


class HeldOutFold:
    """The rows are the product's: all that is fitted is fitted on `rows.train`, epochs are chosen and figures
    taken on `rows.judged`, the treated ones among those held out.

    Args:
        directory: in the competition's layout.
        model, preset, settings: the project's network.
        fold: which of 5.
        fold_seed: of the folds.
    """

    def __init__(self, directory, model, preset, settings, fold, fold_seed):
        dataset = read_dataset(directory)
        self.family = get_family(model)
        self.hyperparameters = override(self.family.presets[preset], settings)
        architecture, recipe = self.hyperparameters.architecture, self.hyperparameters.recipe
        self.rows = make_folds(dataset, Validation(seed=fold_seed), recipe.train_on_controls)[fold]
        signatures = dataset.signatures
        preprocessing = self.family.fit_preprocessing(signatures.take(self.rows.train), architecture, 0)
        features = Inference(preprocessing)(signatures.inputs())
        self.data = NetworkData(preprocessing, features, dataset.targets, self.rows)
        self.targets = dataset.targets
        prior = np.broadcast_to(self.rows.prior, (len(self.rows.judged), len(self.rows.prior)))
        print(f"fold {fold} of 5, drugs held out, {len(prior)} treated rows")
        print(f"{'column means':14} {self.log_loss(prior):.5f}", flush=True)

    @property
    def x(self):
        """[N, F] preprocessed features."""
        return self.data.features["features"]

    def log_loss(self, predicted):
        """Of probabilities for the judged rows."""
        return mean_log_loss(self.targets[self.rows.judged], predicted)

    def train(self, seed):
        """Trains the project's network: its log loss and its number of epochs."""
        placement = Placement("none", None)
        network, history = train_network(self.family, self.data, self.hyperparameters, seed, placement)
        predicted = probabilities(Inference(network), self.data.at(self.rows.judged))
        return self.log_loss(predicted), len(history["epochs"])
