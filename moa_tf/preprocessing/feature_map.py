"""Where each feature lies in a DeepInsight image: similar features on neighbouring pixels.

The map is fitted once on the training fold: the features (not the signatures) are embedded in the plane,
the embedding is turned so that its smallest bounding rectangle is upright, and the rectangle is laid over
the pixel grid.

Source: Sharma et al. 2019, DeepInsight: A methodology to transform a non-image data to an image for
convolution neural network architecture, Methods, "DeepInsight pipeline"; doi:10.1038/s41598-019-47765-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
import numpy as np
from keras import ops

from moa_tf.errors import InputError, whole_number
from moa_tf.preprocessing.adapted import AdaptedLayer

Embedding = Literal["tsne", "umap", "pca", "kernel-pca"]
Rectangle = Literal["minimum", "pydeepinsight"]
Discretization = Literal["round", "quantile", "assignment"]

MIN_FEATURES = 4
"""A hull needs three points; with a fourth there is something to arrange."""


def embed_features(
    features: np.ndarray, embedding: Embedding = "tsne", *, perplexity: float = 5.0, seed: int = 0
) -> np.ndarray:
    """Lays the F features out in the plane, those with similar values over the signatures near each other.

    Args:
        features: [N, F] scaled features of N training signatures.
        embedding: `tsne` is exact t-SNE on cosine distances; `umap` has cosine distances too and needs the
            extra `moa-tf[umap]`; `pca` and `kernel-pca` (radial basis function) are linear algebra.
        perplexity: effective number of neighbours that t-SNE looks at.
        seed: of UMAP's random start; t-SNE starts from principal components.

    Returns:
        [F, 2] float, in the embedding's own units.

    Raises:
        InputError: too few features, a value that is not finite, another embedding, or UMAP asked for and not
            installed.

    Source: van der Maaten and Hinton 2008 (t-SNE); McInnes et al. 2018 (UMAP).
    """
    _choice("embedding", embedding, Embedding)
    features = np.asarray(features, np.float64)
    count = features.shape[1]
    if count < MIN_FEATURES:
        raise InputError(f"feature map: {count} features, expected at least {MIN_FEATURES}")
    if not np.isfinite(features).all():
        bad = np.flatnonzero(~np.isfinite(features).all(0))
        raise InputError(f"feature map: {len(bad)} features have values that are not finite, first {bad[:5]}")
    points = np.ascontiguousarray(features.T)
    if embedding == "tsne":
        from sklearn.manifold import TSNE

        if count <= perplexity:
            raise InputError(
                f"feature map: {count} features, t-SNE needs more than perplexity={perplexity:g}"
            )
        return TSNE(
            metric="cosine", perplexity=perplexity, method="exact", random_state=seed, n_jobs=-1
        ).fit_transform(points)
    if embedding == "umap":
        try:
            from umap import UMAP
        except ImportError:
            raise InputError("embedding=umap: needs UMAP; pip install 'moa-tf[umap]'") from None
        neighbors = min(15, count - 1)
        return UMAP(metric="cosine", n_neighbors=neighbors, random_state=seed, n_jobs=1).fit_transform(points)
    if embedding == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, random_state=seed).fit_transform(points)
    from sklearn.decomposition import KernelPCA

    return KernelPCA(2, kernel="rbf", random_state=seed).fit_transform(points)


def _choice(name: str, value: str, choices: Any) -> str:
    if value not in get_args(choices):
        raise InputError(f"{name}={value}: expected one of {', '.join(get_args(choices))}")
    return value


def align_to_rectangle(embedding: np.ndarray, rectangle: Rectangle = "minimum") -> np.ndarray:
    """Turns an embedding so that the smallest rectangle around it stands upright.

    The smallest rectangle has a side along an edge of the convex hull, so only those directions are tried.

    Args:
        embedding: [F, 2].
        rectangle: `minimum` as above; `pydeepinsight` gives the pixels of pyDeepInsight 0.2.3, which leaves out
            the hull's closing edge and turns by an edge's angle the wrong way round, away from the axis, so
            that its rectangle is mostly not the smallest one.

    Returns:
        [F, 2], rotated about the origin.

    Raises:
        InputError: all points lie on one line.

    Source: Freeman and Shapira 1975, Determining the minimum-area encasing rectangle for an arbitrary closed
    curve.
    """
    from scipy.spatial import ConvexHull, QhullError

    embedding = np.asarray(embedding)
    try:
        hull = embedding[ConvexHull(embedding).vertices]
    except QhullError:
        raise InputError("feature map: the embedding's points lie on one line, expected an area") from None
    edges = np.diff(hull, axis=0) if rectangle == "pydeepinsight" else np.roll(hull, -1, axis=0) - hull
    angles = np.unique(np.abs(np.mod(np.arctan2(edges[:, 1], edges[:, 0]), np.pi / 2)))
    cosine, sine = np.cos(angles), np.sin(angles)
    if rectangle == "minimum":
        sine = -sine  # By minus its angle, an edge comes to lie along the axis.
    rotations = np.stack([cosine, -sine, sine, cosine], axis=1).reshape(-1, 2, 2)
    turned = rotations @ hull.T
    areas = np.prod(turned.max(axis=2) - turned.min(axis=2), axis=1)
    return (rotations[np.argmin(areas)] @ embedding.T).T


def to_pixels(
    coordinates: np.ndarray, image_size: int, discretization: Discretization = "round"
) -> np.ndarray:
    """Lays upright coordinates over a square grid of pixels.

    Args:
        coordinates: [F, 2] from `align_to_rectangle`.
        image_size: pixels on a side.
        discretization: `round` stretches the rectangle over the grid and takes the pixel that a point falls
            in; `quantile` first makes both coordinates uniform, which spreads crowds; `assignment` gives
            every feature a pixel of its own, at the least sum of squared distances from the places that it
            would have with `round`.

    Returns:
        [F, 2] int32 row and column of each feature's pixel, both in [0, image_size).

    Raises:
        InputError: `assignment` with fewer pixels than features.
    """
    coordinates = np.asarray(coordinates)
    count = len(coordinates)
    if discretization == "quantile":
        from sklearn.preprocessing import quantile_transform

        # Columns apart from one another and as many quantiles as pixels: then each pixel row is one quantile.
        coordinates = quantile_transform(
            coordinates, n_quantiles=min(image_size, count), output_distribution="uniform"
        )
    low, high = coordinates.min(0), coordinates.max(0)
    # In float64 from here, as t-SNE's float32 times the size could round up into the next pixel.
    scaled = ((coordinates - low) / (high - low)).astype(np.float64) * image_size
    if discretization == "assignment":
        return _assign_pixels(scaled, image_size)
    _choice("discretization", discretization, Discretization)
    # The far edge belongs to the last pixel.
    return np.clip(np.floor(scaled), 0, image_size - 1).astype(np.int32)


def _assign_pixels(scaled: np.ndarray, image_size: int) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    if len(scaled) > image_size**2:
        raise InputError(
            f"discretization=assignment: {len(scaled)} features and {image_size}² = {image_size**2} pixels, "
            "expected a pixel for every feature"
        )
    centers = np.stack(np.divmod(np.arange(image_size**2), image_size), axis=1) + 0.5
    _, chosen = linear_sum_assignment(cdist(scaled, centers, "sqeuclidean"))
    return np.stack(np.divmod(chosen, image_size), axis=1).astype(np.int32)


@keras.saving.register_keras_serializable(package="moa_tf")
class FeatureMap(AdaptedLayer):
    """Fits and carries the map from features to pixels; passes the features on unchanged.

    It stands at the end of the preprocessing, so that the map is fitted once a fold and saved with the model;
    the network's `FeatureImage` is made from its `pixels`.

    Args:
        image_size: pixels on a side.
        embedding: see `embed_features`.
        rectangle: see `align_to_rectangle`.
        discretization: see `to_pixels`.
        perplexity: of t-SNE.
        seed: of the embedding.

    Call arguments:
        features: [B, F] float.

    Returns:
        The features as they came.

    Raises:
        InputError: image_size below 1, an unknown choice, or a call before adapt().
    """

    def __init__(
        self,
        image_size: int,
        embedding: Embedding = "tsne",
        rectangle: Rectangle = "minimum",
        discretization: Discretization = "round",
        perplexity: float = 5.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = whole_number("image_size", image_size)
        self.embedding = _choice("embedding", embedding, Embedding)
        self.rectangle = _choice("rectangle", rectangle, Rectangle)
        self.discretization = _choice("discretization", discretization, Discretization)
        self.perplexity = float(perplexity)
        self.seed = whole_number("seed", seed, least=0)

    def build(self, input_shape: Sequence[int | None]) -> None:
        shape = (self._expect_features(input_shape), 2)
        self._pixels = self._weight("pixels", shape, "int32", unset=-1)
        self._coordinates = self._weight("coordinates", shape, "float32")

    def adapt(self, features: np.ndarray) -> None:
        """Fits the map on [N, F] scaled features of the training fold; a second time as if it were the first.

        Raises:
            InputError: see `embed_features`, `align_to_rectangle` and `to_pixels`; no rows, another rank, or the layer
                is part of a model that was made for another number of features.
        """
        features = self._table(features)
        embedding = embed_features(features, self.embedding, perplexity=self.perplexity, seed=self.seed)
        coordinates = align_to_rectangle(embedding, self.rectangle)
        pixels = to_pixels(coordinates, self.image_size, self.discretization)
        self._build_for(features.shape[1])
        self._pixels.assign(pixels)
        low, high = coordinates.min(0), coordinates.max(0)
        self._coordinates.assign((coordinates - low) / (high - low))
        self._adapted = True

    @property
    def pixels(self) -> np.ndarray:
        """[F, 2] int32 row and column of each feature's pixel.

        Raises:
            InputError: the layer is not adapted yet.
        """
        self._require_adapted()
        pixels = ops.convert_to_numpy(self._pixels)
        if (pixels < 0).any():
            raise InputError(f"{self._who}: is a clone without the weights of the layer that was adapted")
        return pixels

    @property
    def coordinates(self) -> np.ndarray:
        """[F, 2] float32 place of each feature before pixels, both axes in [0, 1]; for pictures.

        Raises:
            InputError: the layer is not adapted yet.
        """
        self._require_adapted()
        return ops.convert_to_numpy(self._coordinates)

    def call(self, features: Any) -> Any:
        self._require_adapted()
        return ops.cast(features, self.compute_dtype)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        names = ("image_size", "embedding", "rectangle", "discretization", "perplexity", "seed")
        return super().get_config() | {name: getattr(self, name) for name in names}
