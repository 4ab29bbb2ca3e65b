import dataclasses

import numpy as np
import pytest

from moa_tf.data.prior import PRIOR_FLOOR
from moa_tf.data.schema import CONTROL, Dataset, Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.evaluation.metrics import evaluate
from moa_tf.training.cross_validation import Validation, make_folds
from moa_tf.training.fold import ALL, check_fold, make_fold
from moa_tf.training.network import fitting_batch


def table(control, targets, genes=None):
    rows = len(control)
    genes = np.arange(2.0 * rows).reshape(rows, 2) if genes is None else np.asarray(genes)
    signatures = Signatures(
        SignatureSpec(("g-0", "g-1"), (), ("cp_type",)),
        np.array([f"s{i}" for i in range(rows)], object),
        genes.astype(np.float32),
        cp_type=np.where(control, CONTROL, 0).astype(np.int32),
    )
    return Dataset(signatures, np.asarray(targets, np.float32), ("a", "b"), source="table")


CONTROLS = np.array([False, True, False, False, True, False])
TARGETS = [[1, 0], [0, 0], [0, 1], [0, 0], [0, 0], [0, 1]]
HELD_OUT = np.array([False, False, False, True, True, True])


def test_the_rows_and_the_prior_by_hand():
    fold = make_fold(2, table(CONTROLS, TARGETS), HELD_OUT, train_on_controls=False)
    assert fold.train.tolist() == [0, 2]
    assert fold.held_out.tolist() == [3, 4, 5]
    assert fold.judged.tolist() == [3, 5]
    np.testing.assert_allclose(fold.prior, [0.5, 0.5])
    with_controls = make_fold(2, table(CONTROLS, TARGETS), HELD_OUT, train_on_controls=True)
    assert with_controls.train.tolist() == [0, 1, 2]
    # Controls have no mechanism by design: they say nothing of how frequent one is among drugs.
    np.testing.assert_allclose(with_controls.prior, [0.5, 0.5])


def test_the_prior_of_a_target_that_the_training_rows_lack_has_a_floor():
    targets = np.array(TARGETS)
    targets[0, 0] = 0
    targets[3, 0] = 1
    fold = make_fold(0, table(CONTROLS, targets), HELD_OUT, train_on_controls=False)
    assert fold.prior.tolist() == [PRIOR_FLOOR, 0.5]
    figures = evaluate(
        targets[[3, 5]], np.full((2, 2), 0.5), np.zeros(2, bool), prior=np.broadcast_to(fold.prior, (2, 2))
    )
    # Half of -ln 1e-5 for the positive that was never seen, and ln 2 for the other target.
    expected = ((11.512925 + 1e-5) / 2 + np.log(2)) / 2
    assert figures["prior_log_loss_treated"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("control", "held_out", "genes", "message"),
    [
        (np.ones(6, bool), HELD_OUT, None, "table: all 6 signatures are controls, expected treated ones"),
        (CONTROLS, CONTROLS == 0, None, "fold 1: no treated signature is left to train on"),
        (CONTROLS, CONTROLS, None, "fold 1: no treated signature is held out"),
        (CONTROLS, HELD_OUT, np.ones((6, 2)), "fold 1: no gene and no cell line varies over the 2 training"),
    ],
)
def test_rows_that_nothing_can_be_learnt_from(control, held_out, genes, message):
    dataset = table(control, np.zeros((6, 2)), genes)
    with pytest.raises(InputError, match=message) as error:
        check_fold(make_fold(1, dataset, held_out, train_on_controls=False), dataset)
    assert "\n" not in str(error.value)


def test_all_rows_need_none_held_out():
    dataset = table(CONTROLS, TARGETS)
    fold = make_fold(ALL, dataset, np.zeros(6, bool), train_on_controls=False)
    assert fold.train.tolist() == [0, 2, 3, 5]
    check_fold(fold, dataset)


def test_folds_hold_out_every_row_once(dataset):
    folds = make_folds(dataset, Validation(folds=3, seed=7), train_on_controls=False)
    held_out = np.sort(np.concatenate([fold.held_out for fold in folds.values()]))
    np.testing.assert_array_equal(held_out, np.arange(len(dataset)))
    for fold in folds.values():
        assert not set(dataset.drug_id[fold.train]) & set(dataset.drug_id[fold.held_out])


def test_streams_of_random_numbers_are_all_different(dataset, ridge):
    from moa_tf.training.cross_validation import SHARED, _Training
    from moa_tf.training.reporter import Reporter

    seeds = []
    for seed in (0, 1, 2**32 - 1):
        training = _Training(dataset, ridge, Validation(folds=3, seed=seed), Reporter())
        for name in (0, 1, 2, ALL):
            fold = dataclasses.replace(make_fold(0, dataset, np.zeros(len(dataset), bool), False), name=name)
            seeds += [training._seed(fold, part) for part in (0, 1, 2, SHARED)]
    assert len(set(seeds)) == len(seeds) == 48


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_generators_do_not_take(seed):
    with pytest.raises(InputError, match=f"seed={seed}: expected 0 to 4294967295"):
        Validation(seed=seed)


@pytest.mark.parametrize(
    ("batch_size", "rows", "replicas", "expected"),
    [(32, 1000, 2, 32), (128, 101, 1, 101), (128, 101, 2, 100), (128, 103, 4, 100), (4, 5, 4, 4)],
)
def test_a_batch_no_larger_than_the_fold_and_even_over_replicas(batch_size, rows, replicas, expected):
    assert fitting_batch(batch_size, rows, replicas) == expected
