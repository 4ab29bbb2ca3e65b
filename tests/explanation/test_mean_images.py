import numpy as np
import pytest

from moa_tf.data.read import Targets
from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.explanation.mean_images import MeanImages

SPEC = SignatureSpec(("g-0", "g-1"), (), ("cp_type",))
IDS = np.array(["a", "b", "c", "d"], object)
FEATURES = np.array([[0.0, 1.0], [0.5, 0.0], [1.0, 0.0], [9.0, 9.0]], "float32")


def _part(rows):
    controls = np.array([0, 0, 0, 1], "int32")[rows]
    return Signatures(SPEC, IDS[rows], FEATURES[rows], None, controls)


def _means(images):
    return images._sums / images._counts[:, None]


def test_means_by_labels_over_pieces_without_controls():
    labels = np.array([[1, 0], [1, 0], [0, 1], [1, 1]], "float32")
    images = MeanImages(("y", "x"), ("z",), Targets(IDS[::-1], ("x", "y"), labels[::-1]))
    for rows in (np.s_[:2], np.s_[2:]):
        images.add(_part(rows), np.zeros((2, 1)), FEATURES[rows])
    np.testing.assert_allclose(_means(images), [[1.0, 0.0], [0.25, 0.5]])


def test_without_labels_the_most_probable_mechanism_counts():
    images = MeanImages(("x", "y"), ("x", "z", "y"))
    probabilities = np.array([[0.5, 0.1, 0.2], [0.3, 0.1, 0.2], [0.1, 0.2, 0.9], [0.9, 0.0, 0.0]])
    images.add(_part(np.s_[:]), probabilities, FEATURES)
    np.testing.assert_allclose(_means(images), [[0.25, 0.5], [1.0, 0.0]])


def test_the_picture_shows_the_means(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), savefig(self, *a, **k))
    )
    images = MeanImages(("x", "y"), ("x", "y"))
    images.add(_part(np.s_[:]), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), FEATURES)
    images.draw(np.array([[0, 0], [1, 2]]), 8, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    left, right, _ = figures[0].axes[:3]
    assert left.get_title(loc="left") == "x, mean of 2"
    np.testing.assert_allclose(left.collections[0].get_array(), [0.25, 0.5])
    np.testing.assert_allclose(right.collections[0].get_array(), [1.0, 0.0])


def test_faults_are_one_line(tmp_path):
    with pytest.raises(InputError, match="--compare w: is not among the model's mechanisms"):
        MeanImages(("x", "w"), ("x",))
    with pytest.raises(InputError, match="two different"):
        MeanImages(("x", "x"), ("x",))
    images = MeanImages(("x", "y"), ("x", "y"), Targets(IDS[:3], ("x", "y"), np.ones((3, 2), "float32")))
    with pytest.raises(InputError, match="no row for d, one of 1"):
        images.add(_part(np.s_[:]), np.zeros((4, 2)), FEATURES)
    images = MeanImages(("x", "y"), ("x", "y"))
    images.add(_part(np.s_[:]), np.array([[1.0, 0.0]] * 4), FEATURES)
    with pytest.raises(InputError, match="--compare y: no signature"):
        images.draw(np.zeros((2, 2), int), 8, tmp_path / "x.png")
