"""Every family as a scikit-learn classifier."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from moa_tf.config import PRECISIONS, Settings, override, require, to_assignments
from moa_tf.data.columns import discover_spec
from moa_tf.data.frames import read_frame
from moa_tf.data.schema import Dataset, Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.evaluation.metrics import mean_log_loss, zero_controls
from moa_tf.models.base import DEFAULT, get_family
from moa_tf.startup import start
from moa_tf.training.reporter import LogReporter, Reporter, log

try:
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError("MoAClassifier: needs scikit-learn 1.6 or later") from error

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from moa_tf.training.inference import Inference

SMALLEST = 1e-7
"""Probabilities are kept that far from 0 and 1, so that their logits are finite."""


class MoAClassifier(ClassifierMixin, BaseEstimator):
    """A family's networks with their preprocessing, as `moa-tf train` fits them on one fold's training rows.

    X is a DataFrame with a panel's columns, `g-*`, `c-*` and `cp_*`, which are found by name and checked as a file's
    are: controls are then not trained on, and get probability 0. Any other DataFrame, or an array, is numbers alone,
    which are all taken for genes.

    Y is an indicator matrix [N, T], a DataFrame or an array, of as many mechanisms; or [N] classes, two or several.
    Several classes are trained one against the rest, and their probabilities divided by their sum.

    Weight decay and when to stop are chosen on an inner fold, in which rows of one of `groups` are held out together.

    Args:
        model: a family, see `moa_tf.models.base.FAMILIES`.
        preset: named set of hyperparameters; by default by the number of rows.
        settings: any hyperparameters by name, see `moa_tf.train`.
        epochs: as the setting.
        batch_size: as the setting.
        seeds: networks, of whose probabilities the mean is taken.
        missing: `median`: X may hold NaN.
        precision: Keras dtype policy of the networks, or `auto`.
        random_state: `--seed`; a RandomState or None draws one. Deterministic operations, which a GPU needs to give
            the same bits again, are the caller's to ask for.
        fold: the number of the fold whose random streams are taken: with the seed and the rows of a run's fold, what
            is fitted is that fold's model.
        verbose: give what is chosen, and how far it is, to the logger `moa_tf`.

    Attributes:
        classes_: [T] names of the columns of Y, or 0 … T − 1; or the classes.
        n_features_in_: number of columns of X.
        feature_names_in_: their names, where X was a DataFrame with names that are all text.
        spec_: the panel.
        preset_: the preset.
        history_: of each network, what `history.json` holds in a run.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 5)); Y = (X[:, :2] > 0).astype(int)
        >>> MoAClassifier(epochs=2).fit(X, Y).predict_proba(X).shape
        (60, 2)
    """

    def __init__(
        self,
        model: str = DEFAULT,
        *,
        preset: str | None = None,
        settings: Settings | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        seeds: int = 1,
        missing: Literal["refuse", "median"] = "refuse",
        precision: str = "float32",
        random_state: int | np.random.RandomState | None = 0,
        fold: int = 0,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.preset = preset
        self.settings = settings
        self.epochs = epochs
        self.batch_size = batch_size
        self.seeds = seeds
        self.missing = missing
        self.precision = precision
        self.random_state = random_state
        self.fold = fold
        self.verbose = verbose

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fits preprocessing and networks.

        Args:
            X: [N, F] signatures.
            y: [N, T] 0 or 1, or [N] classes.
            groups: [N] drugs, or what else is to be held out together where something is chosen; by default each row.

        Raises:
            InputError: one line for each fault. A ValueError, as are scikit-learn's own.
        """
        require(self.missing in ("refuse", "median"), "missing", self.missing, "refuse or median")
        require(self.precision in PRECISIONS, "precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        require(self.seeds >= 1, "seeds", self.seeds, "at least 1")
        names = [str(name) for name in y.columns] if isinstance(y, pd.DataFrame) else None
        signatures, y = self._read(X, y)
        targets = self._encode(y, names)
        drug = None
        if groups is not None:
            drug = column_or_1d(groups).astype(str).astype(object)
            check_consistent_length(targets, drug)
        if len(targets) < 2:
            raise InputError(f"n_samples={len(targets)}: expected at least 2")
        start_keras()
        self._fit(Dataset(signatures, targets, tuple(map(str, range(targets.shape[1]))), drug, source="X"))
        return self

    def predict_proba(self, X: Any) -> Any:
        """Probabilities.

        Returns:
            [N, T] of each mechanism by itself, or [N, C] of the classes, which sum to 1. A DataFrame, with the index of
            X, where X and Y were DataFrames.
        """
        return self._named(self._probabilities(X), X)

    def decision_function(self, X: Any) -> Any:
        """Logits: [N, T], [N, C] of each class against the rest, or [N] of the second of two classes."""
        check_is_fitted(self)
        probabilities = np.clip(self._sigmoid(X), SMALLEST, 1 - SMALLEST)
        logits = np.log(probabilities) - np.log1p(-probabilities)
        return logits[:, 0] if self._kind == "binary" else self._named(logits, X)

    def predict(self, X: Any) -> Any:
        """[N, T] 0 or 1, whichever is the more probable; or [N] the most probable class."""
        if self._is_multilabel():
            return self._named((self._probabilities(X) > 0.5).astype(int), X)
        return self.classes_[self._probabilities(X).argmax(axis=1)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.input_tags.allow_nan = self.missing == "median"
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # The models are in it as the bytes of `.keras` files; what is loaded is loaded again.
        return {key: value for key, value in self.__dict__.items() if key != "_loaded"}

    def _is_multilabel(self) -> bool:
        check_is_fitted(self)
        return self._kind == "multilabel"

    def _read(self, X: Any, y: Any = None, reset: bool = True) -> tuple[Signatures, Any]:
        """The signatures in X, and y as scikit-learn checks it."""
        missing = self.missing == "median"
        columns = [str(name) for name in X.columns] if isinstance(X, pd.DataFrame) else []
        panel = discover_spec(columns, missing)
        if reset and panel.features:
            validate_data(self, X, y, skip_check_array=True)
            y = check_array(y, accept_sparse="csr", ensure_2d=False, dtype=None, input_name="y")
            check_consistent_length(X, y)
            signatures = read_frame(_without_ids(X), None, log, missing)
            self._panel, self.spec_ = True, signatures.spec
            return signatures, y
        if not reset and self._panel:
            if not isinstance(X, pd.DataFrame):
                raise InputError(
                    f"X: {type(X).__name__}, expected a DataFrame, whose columns are found by name, as fit had one"
                )
            return read_frame(_without_ids(X), self.spec_, log), None
        checks = {"dtype": np.float32, "ensure_all_finite": "allow-nan" if missing else True}
        if reset:
            values, y = validate_data(self, X, y, multi_output=True, **checks)
            genes = tuple(f"g-{place}" for place in range(values.shape[1]))
            self._panel, self.spec_ = False, SignatureSpec(genes, (), (), missing=missing)
        else:
            values = validate_data(self, X, reset=False, **checks)
        ids = np.array([str(row) for row in range(len(values))], object)
        return Signatures(self.spec_, ids, np.ascontiguousarray(values)), y

    def _encode(self, y: Any, names: list[str] | None) -> np.ndarray:
        """[N, T] float32 targets; sets `classes_`, to the names of the columns where there are any."""
        values = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
        if values.ndim == 2 and values.shape[1] == 1 and names is None:
            values = column_or_1d(values, warn=True)
        check_classification_targets(values)
        self._frame = names is not None
        if values.ndim == 2:
            kind = type_of_target(values)
            if kind != "multilabel-indicator" and not np.isin(values, (0, 1)).all():
                raise InputError(f"y: {kind}, expected 0 and 1 in each column, or one column of classes")
            self._kind = "multilabel"
            self.classes_ = np.arange(values.shape[1]) if names is None else np.array(names, object)
            return values.astype(np.float32)
        self.classes_, codes = np.unique(values, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y: one class ({self.classes_[0]}), expected at least two classes")
        self._kind = "binary" if len(self.classes_) == 2 else "multiclass"
        targets = np.eye(len(self.classes_), dtype=np.float32)[codes]
        return targets[:, 1:] if self._kind == "binary" else targets

    def _fit(self, dataset: Dataset) -> None:
        from moa_tf.training.cross_validation import SHARED, stream
        from moa_tf.training.fold import ALL, check_fold, make_fold
        from moa_tf.training.members import NETWORK, PREPROCESSING
        from moa_tf.training.network_learner import NetworkLearner
        from moa_tf.training.strategy import make_placement

        family = get_family(self.model)
        self.preset_ = self.preset or family.choose_preset(len(dataset))
        if self.preset_ not in family.presets:
            raise InputError(f"preset={self.preset_}: expected one of {', '.join(family.presets)}")
        options = {"epochs": self.epochs, "batch_size": self.batch_size}
        given = [f"{key}={value}" for key, value in options.items() if value is not None]
        hyperparameters = override(family.presets[self.preset_], [*given, *to_assignments(self.settings)])
        learner = NetworkLearner(
            family, hyperparameters, make_placement("none"), self.preset_, self.precision
        )
        nothing = np.zeros(len(dataset), bool)
        fold = make_fold(ALL, dataset, nothing, learner.train_on_controls)
        check_fold(fold, dataset)
        learner.check(dataset, [fold])
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = check_random_state(seed).randint(2**31)
        reporter = LogReporter() if self.verbose else Reporter()
        self.history_, self._networks = [], []
        with tempfile.TemporaryDirectory(prefix="moa-tf-") as folder:
            home = Path(folder)
            prepared, _ = learner.prepare(
                dataset, fold, stream(int(seed), self.fold, SHARED), home, False, reporter
            )
            for number in range(self.seeds):
                member = home / f"seed-{number}"
                member.mkdir()
                _, history = learner.fit(
                    dataset,
                    prepared,
                    fold,
                    stream(int(seed), self.fold, number),
                    member,
                    f"network {number}",
                    reporter,
                )
                self.history_.append(history)
                self._networks.append((member / NETWORK).read_bytes())
            self._preprocessing = (home / PREPROCESSING).read_bytes()
        self._loaded: tuple[Inference, list[Inference]] | None = None
        self._models()

    def _models(self) -> tuple[Inference, list[Inference]]:
        """Preprocessing and networks, loaded once in a process."""
        loaded = self.__dict__.get("_loaded")
        if loaded is None:
            start_keras()
            from moa_tf.training.inference import Inference

            get_family(self.model)  # registers the layers that the files name
            networks = [Inference(_load(network)) for network in self._networks]
            loaded = self._loaded = (Inference(_load(self._preprocessing)), networks)
        return loaded

    def _sigmoid(self, X: Any) -> np.ndarray:
        """[N, T] mean probability of the networks, 0 for controls."""
        signatures, _ = self._read(X, reset=False)
        preprocessing, networks = self._models()
        from moa_tf.training.follow import probabilities

        features = cast(dict[str, np.ndarray], preprocessing(signatures.inputs()))
        several = [probabilities(network, features) for network in networks]
        return zero_controls(np.asarray(np.mean(several, axis=0, dtype=np.float64)), signatures.control)

    def _probabilities(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        sigmoid = self._sigmoid(X)
        if self._kind == "binary":
            return np.hstack([1 - sigmoid, sigmoid])
        if self._kind == "multiclass":
            return sigmoid / np.maximum(sigmoid.sum(axis=1, keepdims=True), SMALLEST)
        return sigmoid

    def _named(self, values: np.ndarray, X: Any) -> Any:
        if self._frame and isinstance(X, pd.DataFrame):
            return pd.DataFrame(values, index=X.index, columns=self.classes_)
        return values


def neg_log_loss(estimator: Any, X: Any, y: Any) -> float:
    """The project's own figure as a scikit-learn scorer: minus the mean column-wise log loss over treated rows.

    Args:
        estimator: fitted, or a pipeline; gives [N, T] probabilities.
        X: [N, F] signatures; with a column `cp_type`, controls are left out.
        y: [N, T] 0 or 1.
    """
    treated = np.ones(len(X), bool)
    if isinstance(X, pd.DataFrame) and "cp_type" in X:
        treated = ~X["cp_type"].astype(str).str.startswith("ctl_").to_numpy()
    predicted = np.asarray(estimator.predict_proba(X))
    return -mean_log_loss(np.asarray(y)[treated], predicted[treated])


def start_keras() -> None:
    """Keras on what it runs on already, or else on TensorFlow."""
    keras = sys.modules.get("keras")
    start("tensorflow" if keras is None else keras.backend.backend())


def _without_ids(X: pd.DataFrame) -> pd.DataFrame:
    """With row numbers for ids: rows may come twice, as in a bootstrap."""
    return X.drop(columns="sig_id", errors="ignore").reset_index(drop=True)


def _load(content: bytes) -> Any:
    import keras

    with tempfile.NamedTemporaryFile(suffix=".keras") as file:
        file.write(content)
        file.flush()
        return keras.saving.load_model(file.name, compile=False)
