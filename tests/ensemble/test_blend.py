import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from moa_tf.ensemble.blend import blend_folds, blend_runs
from moa_tf.ensemble.combination import BlendOptions, read_combination
from moa_tf.ensemble.opening import open_run
from moa_tf.errors import InputError
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.training.run import Run


def quiet(line):
    pass


@pytest.fixture(scope="module")
def blended(runs, dataset, tmp_path_factory):
    lines = []
    out = runs[0].parent / "blend"
    metrics = blend_runs(runs, out, BlendOptions(calibrate="temperature"), lines.append, dataset)
    return out, metrics, lines


def read(directory, dataset):
    table = pd.read_parquet(directory / "oof.parquet")
    assert table.sig_id.tolist() == dataset.signatures.sig_id.tolist()
    return table.fold.to_numpy(), table[list(dataset.target_names)].to_numpy()


def test_each_fold_is_predicted_by_a_combination_of_the_others(blended, runs, dataset):
    out, metrics, _ = blended
    fold, predicted = read(out, dataset)
    components = np.stack([read(run, dataset)[1] for run in runs])
    treated = ~dataset.signatures.control
    for number, figures in enumerate(metrics["folds"]):
        combination = read_combination(json.loads(json.dumps(figures["chosen"][0])))
        rows = (fold == number) & treated
        np.testing.assert_allclose(predicted[rows], combination.apply(components[:, rows]), atol=1e-6)
        # No other weights are better on the folds that these are from.
        rows = (fold != number) & treated
        plain = dataclasses.replace(combination, calibration=None)
        losses = [
            mean_log_loss(
                dataset.targets[rows],
                dataclasses.replace(plain, weights=np.array([w, 1 - w])).apply(components[:, rows]),
            )
            for w in np.linspace(0, 1, 21)
        ]
        assert mean_log_loss(dataset.targets[rows], plain.apply(components[:, rows])) <= min(losses)
    assert (predicted[~treated] == 0).all()


def test_figures_are_those_of_the_table_and_stand_beside_the_components(blended, runs, dataset):
    out, metrics, _ = blended
    _, predicted = read(out, dataset)
    treated = ~dataset.signatures.control
    assert metrics["overall"]["log_loss_treated"] == pytest.approx(
        mean_log_loss(dataset.targets[treated], predicted[treated])
    )
    parts = metrics["components"]
    for run, part in zip(runs, parts, strict=True):
        assert part["macro_auroc"] == Run(run).metrics()["overall"]["macro_auroc"]
    best = parts[metrics["best"]]
    assert best["log_loss_treated"] == min(part["log_loss_treated"] for part in parts)
    value, low, high = metrics["difference"]["log_loss_treated"]
    assert value == pytest.approx(metrics["overall"]["log_loss_treated"] - best["log_loss_treated"], abs=1e-9)
    assert low < value < high
    assert value < 0  # each knows half of the genes
    assert sum(part["weight"] for part in parts) == pytest.approx(1)


def test_it_is_a_run_that_refers_to_the_others(blended, runs):
    out, metrics, lines = blended
    assert Run(out).metrics() == json.loads(json.dumps(metrics))
    description = Run(out).description
    assert description["model"] == "blend"
    assert [part["path"] for part in description["components"]] == ["../a", "../b"]
    assert [part["digest"] for part in description["components"]] == [Run(run).digest() for run in runs]
    names = ["lock", "metrics.json", "oof.parquet", "ranking.json", "run.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [line.partition(": ")[2] for line in lines] == [
        "has no Keras networks, so it counts here, and is left out of an export"
    ] * 2
    with pytest.raises(InputError, match="none of the blended runs has Keras networks"):
        open_run(out)


@pytest.mark.parametrize("calibrate", ["temperature", "isotonic"])
def test_labels_of_a_fold_change_nothing_of_its_predictions(runs, dataset, calibrate):
    fold, _ = read(runs[0], dataset)
    components = np.stack([read(run, dataset)[1] for run in runs])
    options = BlendOptions(per_target=True, calibrate=calibrate)
    before, _ = blend_folds(dataset, fold, components, options)
    targets = dataset.targets.copy()
    targets[fold == 1] = 1 - targets[fold == 1]
    after, _ = blend_folds(dataclasses.replace(dataset, targets=targets), fold, components, options)
    np.testing.assert_array_equal(before[fold == 1], after[fold == 1])
    assert np.abs(before[fold == 0] - after[fold == 0]).max() > 1e-3


def test_one_run_can_be_calibrated(runs, dataset, tmp_path):
    metrics = blend_runs(runs[:1], tmp_path / "out", BlendOptions(calibrate="isotonic"), quiet, dataset)
    assert metrics["components"][0]["weight"] == 1
    assert metrics["overall"]["log_loss_treated"] != metrics["components"][0]["log_loss_treated"]


def test_runs_of_some_folds_alone(train, dataset, tmp_path):
    parts = [
        train(tmp_path / name, genes, only_fold=0) for name, genes in (("a", slice(9)), ("b", slice(9, 20)))
    ]
    with pytest.raises(InputError, match="1 fold is scored, expected at least 2"):
        blend_runs(parts, tmp_path / "out", BlendOptions(), quiet, dataset)
    assert not (tmp_path / "out").exists()


def test_runs_that_do_not_belong_together(runs, train, dataset, blended, tmp_path):
    part = train(tmp_path / "part", only_fold=0)
    seed = train(tmp_path / "seed", seed=1)
    shuffled = train(tmp_path / "shuffled", shuffle_labels=True)
    more = train(tmp_path / "more", folds=4)
    other = train(tmp_path / "other", data=dataclasses.replace(dataset, fingerprint="x"))
    broken = tmp_path / "broken"
    shutil.copytree(runs[1], broken)
    (broken / "oof.parquet").write_bytes(b"damage")
    moved = tmp_path / "moved"
    shutil.copytree(runs[1], moved)
    table = pd.read_parquet(moved / "oof.parquet")
    table.assign(fold=np.roll(table.fold, 1)).to_parquet(moved / "oof.parquet")
    for second, words in (
        (part, r"part: scores the folds \[0\], .* \[0, 1, 2\]; expected the same"),
        (seed, r"seed: seed differs from that of .* \(1, 0\), expected the same"),
        (shuffled, "shuffle_labels differs"),
        (more, r"folds differs from that of .* \(4, 3\)"),
        (other, "other: data differs from that of"),
        (broken, r"broken/oof\.parquet: cannot be read"),
        (moved, "its rows are in other folds"),
        (tmp_path / "none", r"none: no run\.json there"),
        (blended[0], "is a blend itself"),
        (runs[0], "given twice"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            blend_runs([runs[0], second], tmp_path / "out", BlendOptions(), quiet, dataset)
        assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_else_is_refused(runs, dataset, tmp_path):
    with pytest.raises(InputError, match="1 run, expected two or more, or one and --calibrate"):
        blend_runs(runs[:1], tmp_path / "out", BlendOptions(), quiet, dataset)
    with pytest.raises(InputError, match="is there already"):
        blend_runs(runs, runs[0], BlendOptions(), quiet, dataset)
    # The sample by its name alone has other genes than this one.
    with pytest.raises(InputError, match="is not the data that the runs were trained on"):
        blend_runs(runs, tmp_path / "out", BlendOptions(), quiet)
    assert list(tmp_path.iterdir()) == []


def test_controls_are_blended_as_such(train, dataset, tmp_path):
    parts = [
        train(tmp_path / name, genes, shuffle_labels=True)
        for name, genes in (("a", slice(9)), ("b", slice(9, 20)))
    ]
    metrics = blend_runs(parts, tmp_path / "out", BlendOptions(), quiet, dataset)
    assert metrics["shuffled_labels"] is True
    assert metrics["overall"]["macro_auroc"] < 0.6
    assert Run(tmp_path / "out").description["settings"]["shuffle_labels"] is True
