"""One drug-held-out fold of a data directory, as the benchmarks of quality train and score on it."""

from __future__ import annotations

import numpy as np

from moa_tf.data.folds import assign_folds
from moa_tf.data.input import Inference
from moa_tf.data.read import read_dataset
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.models.base import get_family, override
from moa_tf.training.fold import FoldData, probabilities, train_network
from moa_tf.training.strategy import Placement


class HeldOutFold:
    """Treated rows alone, in training and scoring; all that is fitted is fitted on the training rows.

    Args:
        directory: in the competition's layout.
        model, preset, settings: the project's network.
        fold: which of 5.
        fold_seed: of the folds.
    """

    def __init__(self, directory, model, preset, settings, fold, fold_seed):
        dataset = read_dataset(directory)
        folds = assign_folds(dataset.targets, dataset.drug_id, "drug", 5, fold_seed)
        treated = ~dataset.signatures.control
        train, test = (np.flatnonzero(rows & treated) for rows in (folds != fold, folds == fold))
        self.family = get_family(model)
        self.config = override(self.family.presets[preset], settings)
        preprocessing = self.family.fit_preprocessing(dataset.signatures.take(train), self.config, 0)
        features = Inference(preprocessing)(dataset.signatures.inputs())
        self.data = FoldData(preprocessing, features, dataset.targets, train, test)
        prior = np.broadcast_to(self.data.prior, (len(test), dataset.targets.shape[1]))
        print(f"fold {fold} of 5, drugs held out, {len(test)} treated rows")
        print(f"{'column means':14} {self.log_loss(prior):.5f}", flush=True)

    @property
    def x(self):
        """[N, F] preprocessed features."""
        return self.data.features["features"]

    def log_loss(self, predicted):
        """Of probabilities for the held-out rows."""
        return mean_log_loss(self.data.targets[self.data.held_out], predicted)

    def train(self, seed):
        """Trains the project's network: its log loss and its number of epochs."""
        placement = Placement("none", None)
        network, history = train_network(self.family, self.data, self.config, seed, placement)
        rows = {name: values[self.data.held_out] for name, values in self.data.features.items()}
        return self.log_loss(probabilities(Inference(network), rows)), len(history["epochs"])
