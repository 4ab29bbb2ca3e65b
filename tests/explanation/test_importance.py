import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from moa_tf.explanation import importance
from moa_tf.explanation.feature_map_plots import plot_activations, plot_mechanisms
from moa_tf.explanation.figures import save_figure
from moa_tf.explanation.importance import ImportanceSums
from moa_tf.explanation.symbols import label_columns, read_gene_names

COLUMNS = ("g-0", "g-1", "g-2", "g-3", "g-4", "c-0")
NAMES = {"g-0": "TP53", "g-1": "TP53", "g-2": r"$b\frac$", "g-3": "x_1^2", "g-4": "c-0"}
TARGETS = (r"$a\frac$", "$x$ inhibitor", "{b}^2")


@pytest.fixture
def sums():
    sums = ImportanceSums.empty(COLUMNS, TARGETS)
    sums.add(
        np.array([[0.3, 0.25, 0.2, 0.15, 0.1, 0.0], [0.1, 0.15, 0.2, 0.25, 0.3, 0.0]]),
        np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]),
    )
    return sums


def drawn(monkeypatch, draw):
    """The figure that `draw` makes, once it is written."""
    figures = []
    savefig = Figure.savefig

    def record(self, *arguments, **options):
        figures.append(self)
        savefig(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", record)
    draw()
    return figures[0]


def test_genes_of_one_symbol_are_told_apart():
    assert label_columns(COLUMNS, NAMES) == [
        "TP53 (g-0)", "TP53 (g-1)", r"$b\frac$", "x_1^2", "c-0 (g-4)", "c-0"
    ]  # fmt: skip
    assert label_columns(("g-0", "g-9"), NAMES) == ["TP53", "g-9"]


def test_each_gene_has_a_bar_and_names_are_text(sums, tmp_path, monkeypatch):
    path = tmp_path / "m.png"
    figure = drawn(monkeypatch, lambda: importance.plot_mechanisms(sums, path, names=NAMES, top=6))
    assert path.read_bytes()[:4] == b"\x89PNG"
    axes = {axis.get_title(): axis for axis in figure.axes}
    assert list(axes) == [name.replace("_", " ") for name in TARGETS]
    axis = axes["$x$ inhibitor"]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    # By their share, whatever it exceeds: the longest bar comes first.
    assert labels[::-1] == ["c-0 (g-4)", "x_1^2", r"$b\frac$", "TP53 (g-1)", "TP53 (g-0)", "c-0"]
    bars = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in axis.patches]
    np.testing.assert_allclose([place for place, _ in bars], range(6))
    np.testing.assert_allclose([width for _, width in bars][::-1], [0.3, 0.25, 0.2, 0.15, 0.1, 0])
    marks = axis.collections[0].get_offsets()
    np.testing.assert_allclose(marks[:, 1], range(6))
    np.testing.assert_allclose(marks[::-1, 0], [0.2, 0.2, 0.2, 0.2, 0.2, 0])
    texts = [*axis.get_yticklabels(), axis.title]
    assert not any(text.get_parse_math() for text in texts)


def test_the_mechanisms_that_are_predicted_most_come_first(sums, tmp_path, monkeypatch):
    sums.weights = np.array([0.5, 3.0, 1.0])
    figure = drawn(monkeypatch, lambda: importance.plot_mechanisms(sums, tmp_path / "m.png", mechanisms=2))
    assert [axis.get_title() for axis in figure.axes] == [TARGETS[1], TARGETS[2]]


def test_the_plots_features_are_those_of_the_table(sums, tmp_path, monkeypatch):
    """Chosen by what exceeds the share over all signatures; mechanisms that nothing counts for have no panel."""
    sums.weights = np.array([1.0, 1.0, 0.0])
    figure = drawn(
        monkeypatch, lambda: importance.plot_mechanisms(sums, tmp_path / "m.png", top=2, names=NAMES)
    )
    labels = [[label.get_text() for label in axis.get_yticklabels()][::-1] for axis in figure.axes]
    assert labels == [["TP53 (g-0)", "TP53 (g-1)"], ["c-0 (g-4)", "x_1^2"]]


def test_names_are_text_over_the_map(tmp_path):
    pixels = np.array([[0, 0], [1, 5], [4, 2], [7, 7], [3, 6], [6, 1]])
    values = np.linspace(0, 1, 6)
    labels = label_columns(COLUMNS, NAMES)
    figure = plot_activations(pixels, 8, dict.fromkeys(TARGETS, values), labels, top=6)
    save_figure(figure, tmp_path / "a.png")
    assert {text.get_text() for text in figure.axes[0].texts} == set(labels)
    figure = plot_mechanisms(pixels, 8, {TARGETS[0]: values, TARGETS[1]: values[::-1]}, [3, 4])
    save_figure(figure, tmp_path / "m.png")
    assert figure.axes[0].get_title(loc="left") == r"$a\frac$, mean of 3"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_users_matplotlibrc_changes_nothing(sums, tmp_path):
    importance.plot_mechanisms(sums, tmp_path / "as-it-comes.png")
    with matplotlib.rc_context({"text.usetex": True, "savefig.dpi": 20, "font.size": 30, "axes.grid": True}):
        importance.plot_mechanisms(sums, tmp_path / "here.png")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "as-it-comes.png").read_bytes()


def test_blanks_around_names_of_genes_are_no_part_of_them(tmp_path):
    (tmp_path / "genes.csv").write_text("column,symbol\n g-0 , AARS1 \ng-1,  \n")
    assert read_gene_names(tmp_path / "genes.csv") == {"g-0": "AARS1"}
