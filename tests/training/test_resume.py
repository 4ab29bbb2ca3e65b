"""A kill or a damage at any moment: what was finished stays, and going on ends as without it."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest

import moa_tf.training.run as run_module
from moa_tf.atomic import replacing
from moa_tf.data.simulate import simulate
from moa_tf.errors import InputError
from moa_tf.evaluation.metrics import evaluate
from moa_tf.lock import locked
from moa_tf.training.cross_validation import Validation, cross_validate, with_shuffled_labels
from moa_tf.training.run import Run

VALIDATION = Validation(folds=2, seeds=2, seed=7)


@pytest.fixture(scope="module")
def dataset():
    return simulate(120, seed=1, genes=12, cells=0)


@pytest.fixture
def go(dataset, ridge, messages):
    """Trains, with the quick learner, in this process."""

    def go(out, **options):
        return cross_validate(dataset, ridge, VALIDATION, Run(out), reporter=messages, **options)

    return go


@pytest.fixture
def whole(go, tmp_path, ridge):
    metrics = go(tmp_path / "whole", refit=True)
    ridge.fitted.clear()
    return tmp_path / "whole", metrics


def assert_same(run, metrics, whole):
    expected = pd.read_parquet(whole[0] / "oof.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(run / "oof.parquet"), expected)
    assert metrics["overall"] == whole[1]["overall"]
    for seed in range(2):
        weights = [np.load(path / f"fold-all/seed-{seed}/weights.npy") for path in (run, whole[0])]
        np.testing.assert_array_equal(*weights)
    assert Run(run).metrics()["models"] == Run(run).digest()
    assert [fold.name for fold in Run(run).finished_models()] == ["all"]
    assert not list(run.rglob(".tmp-*"))


class Writes:
    """`replacing`, counted; the process dies at one of them, before or after the file takes its place."""

    def __init__(self, monkeypatch, at=-1, after=False):
        self.count, self.at, self.after = 0, at, after
        monkeypatch.setattr(run_module, "replacing", self)

    def __call__(self, path):
        self.path = path
        self.context = replacing(path)
        return self

    def __enter__(self):
        return self.context.__enter__()

    def __exit__(self, *error):
        if self.count == self.at and not self.after:
            os._exit(9)
        closed = self.context.__exit__(*error)
        if self.count == self.at:
            os._exit(9)
        self.count += 1
        return closed


def in_a_process_of_its_own(work):
    """A fork, so that death is real: no `finally` runs, and the operating system drops the lock."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_kill_at_every_write(after, whole, go, monkeypatch, tmp_path, ridge):
    writes = Writes(monkeypatch)
    go(tmp_path / "counted", refit=True)
    # run.json, 3 scalings and their seals, 6 members of 4 files, what these 9 cost, oof.parquet,
    # ranking.json, metrics.json
    assert writes.count == 1 + 6 + 24 + 9 + 3
    for moment in range(writes.count):
        out = tmp_path / f"{moment}"
        Writes(monkeypatch, moment, after)
        assert in_a_process_of_its_own(lambda out=out: go(out, refit=True)) == 9
        monkeypatch.undo()
        finished = len(list(out.glob("fold-*/seed-*/finished.json")))
        ridge.fitted.clear()
        # Whether the user says --refit again or not, what was begun is finished.
        metrics = go(out, refit=bool(moment % 2) or not (out / "run.json").exists(), resume=True)
        assert len(ridge.fitted) == 6 - finished
        assert_same(out, metrics, whole)


@pytest.mark.slow
def test_a_damage_to_every_file(whole, go, ridge, messages, tmp_path):
    files = [path.relative_to(whole[0]) for path in sorted(whole[0].rglob("*")) if path.is_file()]
    for file in files:
        if file.name in ("run.json", "lock", "cost.json"):
            continue
        for damage in ("deleted", "cut", "flipped"):
            out = tmp_path / "damaged"
            shutil.copytree(whole[0], out)
            path, content = out / file, (whole[0] / file).read_bytes()
            if damage == "deleted":
                path.unlink()
            else:
                half = len(content) // 2
                other = bytes([content[half] ^ 0xFF])
                path.write_bytes(content[:half] + (other + content[half + 1 :]) * (damage == "flipped"))
            ridge.fitted.clear()
            messages.lines.clear()
            metrics = go(out, resume=True)
            assert_same(out, metrics, whole)
            if file.parent.name.startswith("seed-"):
                assert len(ridge.fitted) == 1
            elif file.name == "scaling.npz":
                # Fitted again to the same: the members stay.
                assert ridge.fitted == []
            if file.parent.name and damage != "deleted":
                assert any(str(path) in line for line in messages.lines)
            shutil.rmtree(out)


def test_members_are_fitted_again_on_another_scaling(whole, go, ridge, messages):
    # As if the first scaling had come out otherwise, on another machine say.
    directory = whole[0] / "fold-1"
    part = next(fold.shared for fold in Run(whole[0]).parts() if fold.name == 1)
    part.seal("another")
    (directory / "scaling.npz").write_bytes(b"damaged")
    metrics = go(whole[0], resume=True)
    assert ridge.fitted == ["fold 1 seed 0", "fold 1 seed 1"]
    assert "its members are too" in messages.lines[-1]
    assert metrics["overall"] == whole[1]["overall"]


def test_damage_to_run_json_is_one_line(whole, go):
    (whole[0] / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: damaged") as error:
        go(whole[0], resume=True)
    assert "\n" not in str(error.value)


def test_one_fold_resumed_keeps_the_figures_of_all(whole, go):
    before = (whole[0] / "oof.parquet").read_bytes()
    assert go(whole[0], only_fold=1, resume=True) == whole[1]
    assert (whole[0] / "oof.parquet").read_bytes() == before


def test_folds_one_after_the_other_are_the_whole(whole, go, tmp_path):
    first = go(tmp_path / "a", only_fold=1)
    assert [fold["fold"] for fold in first["folds"]] == [1]
    both = go(tmp_path / "a", only_fold=0, resume=True)
    assert both["overall"] == whole[1]["overall"]


def test_half_a_refit_is_not_exported(whole):
    shutil.rmtree(whole[0] / "fold-all" / "seed-1")
    with pytest.raises(
        InputError, match=r"fold-all/seed-1: not finished yet; train it further with --resume"
    ):
        Run(whole[0]).finished_models()


def test_metrics_of_other_models_are_not_taken_for_these(whole, go):
    text = (whole[0] / "metrics.json").read_text()
    (whole[0] / "fold-1/seed-0/finished.json").unlink()
    go(whole[0], resume=True)
    assert Run(whole[0]).metrics()
    (whole[0] / "metrics.json").write_text(text.replace(whole[1]["models"], "0" * 64))
    with pytest.raises(InputError, match=r"metrics\.json: not there, or not of these models"):
        Run(whole[0]).metrics()


def test_a_run_is_held_by_one_process(whole, go, tmp_path):
    reached = tmp_path / "reached"

    def second():
        with pytest.raises(
            InputError, match=r"is being trained by process \d+ on .*; wait for it or stop it"
        ):
            go(whole[0], resume=True)
        reached.touch()

    with locked(whole[0] / "lock", whole[0], "trained", print):
        in_a_process_of_its_own(second)
    assert reached.exists()
    # The file is left behind and holds nothing any more.
    assert (whole[0] / "lock").exists()
    go(whole[0], resume=True)


def test_names_that_are_taken_get_a_number(tmp_path, go, dataset, ridge):
    runs = [Run(tmp_path / "runs" / "ridge", fresh=True) for _ in range(3)]
    for run in runs:
        cross_validate(dataset, ridge, VALIDATION, run, only_fold=0)
    assert [run.directory.name for run in runs] == ["ridge", "ridge-2", "ridge-3"]


def test_what_a_kill_leaves_before_run_json_is_no_ones(tmp_path, go, whole):
    out = tmp_path / "a"
    out.mkdir()
    (out / "lock").write_text("process 1 on another\n")
    (out / ".tmp-abcrun.json").write_text("{")
    go(out, refit=True)
    assert not (out / ".tmp-abcrun.json").exists()


def test_a_directory_of_something_else(tmp_path, go):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="not empty and no run"):
        go(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_resume_of_nothing_says_so(tmp_path, go, messages):
    go(tmp_path / "a", resume=True)
    assert messages.lines == [f"--resume: {tmp_path / 'a'} holds no run yet; a new one is started"]


def test_predictions_that_know_nothing_rank_at_one_half(dataset, ridge, tmp_path):
    """Each fold's own label means: pooled over folds they would rank below chance."""
    ridge.strength = 1e12
    figures = cross_validate(dataset, ridge, VALIDATION, Run(tmp_path / "a"))["overall"]
    assert figures["macro_auroc"] == 0.5
    assert figures["intervals"]["macro_auroc"] == [0.5, 0.5]
    table = pd.read_parquet(tmp_path / "a/oof.parquet").iloc[:, 2:].to_numpy()
    treated = ~dataset.signatures.control
    pooled = evaluate(dataset.targets, table, ~treated)
    assert pooled["macro_auroc"] < 0.49
    # Log loss stays pooled, and is here that of the column means.
    assert figures["log_loss_treated"] == pytest.approx(pooled["log_loss_treated"])
    assert figures["log_loss_treated"] == pytest.approx(figures["prior_log_loss_treated"], rel=1e-3)


def test_shuffled_labels_are_the_same_ones_at_other_drugs(dataset):
    shuffled = with_shuffled_labels(dataset, 3)
    control = dataset.signatures.control
    np.testing.assert_array_equal(shuffled.targets[control], dataset.targets[control])
    before, after = (
        {drug: tuple(data.targets[i]) for i, drug in enumerate(data.drug_id) if not control[i]}
        for data in (dataset, shuffled)
    )
    assert sorted(before.values()) == sorted(after.values())
    assert np.mean([before[drug] == after[drug] for drug in before]) < 0.6
    for i, drug in enumerate(dataset.drug_id):
        assert control[i] or tuple(shuffled.targets[i]) == after[drug]


def test_groups_of_a_column_are_held_out_named_and_part_of_the_identity(dataset, ridge, messages, tmp_path):
    batch = np.array([f"p{i % 4}" for i in range(len(dataset))], object)
    other = np.where(batch == "p3", "p2", batch)

    def go(split, batch, out, **options):
        grouped = dataclasses.replace(dataset, groups={"batch": batch})
        return cross_validate(
            grouped, ridge, Validation(split, 2), Run(tmp_path / out), reporter=messages, **options
        )

    metrics = go("batch", batch, "a")
    fold = pd.read_parquet(tmp_path / "a/oof.parquet").set_index("sig_id").fold[dataset.signatures.sig_id]
    assert all(len(set(fold[batch == name])) == 1 for name in set(batch))
    assert metrics["split"] == "batch"
    several = metrics["groups"]["drugs_in_several_groups"]
    assert metrics["groups"]["groups"] == 4
    assert several > 0
    assert messages.lines[0].startswith(
        f"batch: {several} of {metrics['groups']['drugs']} drugs are in several"
    )
    go("batch", batch, "a", resume=True)
    with pytest.raises(InputError, match=r"data\.groups\.batch was [0-9a-f]{64}, now"):
        go("batch", other, "a", resume=True)
    # A run by drug does not know the column.
    go("drug", batch, "b")
    assert "groups" not in go("drug", other, "b", resume=True)
    assert "groups" not in json.loads((tmp_path / "b/run.json").read_text())["data"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.source", "elsewhere", None),
        ("settings.preset", "another", None),
        ("versions.python", "3.0", None),
        ("versions.keras", "3.0", r"versions\.keras was 3\.0, now"),
        ("data.fingerprint", "f", r"data\.fingerprint was f, now"),
        ("settings.strength", 1.0, r"settings\.strength was 1\.0, now 30\.0"),
        ("settings.seed", 1, r"settings\.seed was 1, now 7"),
        ("targets", ["x"], "targets was"),
        ("panel.genes", ["x"], r"panel\.genes was"),
    ],
)
def test_what_a_run_is_known_by(whole, go, key, value, message):
    path = whole[0] / "run.json"
    description = json.loads(path.read_text())
    *parents, last = key.split(".")
    inner = description
    for name in parents:
        inner = inner[name]
    inner[last] = value
    path.write_text(json.dumps(description))
    if message is None:
        assert go(whole[0], resume=True)["overall"] == whole[1]["overall"]
        return
    with pytest.raises(InputError, match=message):
        go(whole[0], resume=True)
