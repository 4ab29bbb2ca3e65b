"""Drugs with and without an effect, and reference drugs, that are made so."""

import dataclasses

import numpy as np
import pytest

from moa_tf.data.schema import Dataset, Signatures, SignatureSpec
from moa_tf.ranking.activity import LEVEL, Profiles, Reservoir, features_of, fit_scale
from moa_tf.ranking.neighbours import Reference

GENES = 40


@pytest.fixture(scope="module")
def plate():
    """100 drugs of four signatures, half of them without effect; 200 controls; a gap here and there."""
    rng = np.random.default_rng(0)
    drug = np.repeat(np.arange(100), 4)
    effect = rng.normal(size=(100, GENES)) * (np.arange(100) < 50)[:, None]
    treated = effect[drug] + rng.normal(size=(400, GENES))
    values = 5 + 2 * np.concatenate([treated, rng.normal(size=(200, GENES))]).astype(np.float32)
    values[rng.random(values.shape) < 0.01] = np.nan
    spec = SignatureSpec(tuple(f"g-{i}" for i in range(GENES)), treatment=("cp_type",), missing=True)
    signatures = Signatures(
        spec, np.array([f"s{i}" for i in range(600)], object), values, cp_type=np.repeat([0, 1], [400, 200])
    )
    return signatures, np.array([f"d{i:03d}" for i in [*drug, *[999] * 200]], object)


def collect(plate, size):
    signatures, drug = plate
    parts = [slice(start, start + size) for start in range(0, 600, size)]
    profiles = Profiles(fit_scale(signatures.take(part) for part in parts))
    for part in parts:
        some = signatures.take(part)
        profiles.add_controls(some)
        profiles.add(some, drug[part])
    return profiles


def test_the_scale_is_that_of_the_controls(plate):
    signatures, _ = plate
    scale = fit_scale([signatures.take(slice(0, 450)), signatures.take(slice(450, 600))])
    controls = features_of(signatures)[400:].astype(np.float64)
    assert scale.controls == 200
    np.testing.assert_allclose(scale.mean, np.nanmean(controls, axis=0))
    np.testing.assert_allclose(scale.deviation, np.nanstd(controls, axis=0))
    assert fit_scale([signatures.take(slice(0, 430))]).controls == 0


def test_most_drugs_without_effect_are_inactive_and_most_others_not(plate):
    profiles = collect(plate, 600)
    p, number = profiles.activity().p, np.array([int(name[1:]) for name in profiles.mean.keys])
    assert len(p) == 100
    assert (p[number >= 50] > LEVEL).mean() >= 0.8
    assert (p[number < 50] <= LEVEL).mean() >= 0.95


def test_agreement_is_the_mean_correlation_of_pairs(plate):
    signatures, _ = plate
    activity, profiles = collect(plate, 600).activity(), collect(plate, 7)
    rows = fit_scale([signatures])(signatures.take(slice(0, 4)))
    pairs = np.corrcoef(rows)[np.triu_indices(4, 1)]
    assert activity.agreement[0] == pytest.approx(pairs.mean(), abs=1e-5)
    assert activity.strength[0] == pytest.approx(np.sqrt(4 * np.square(rows.mean(axis=0)).mean()), rel=1e-5)
    # In chunks the same.
    np.testing.assert_allclose(profiles.activity().agreement, activity.agreement, atol=1e-6)


def test_what_cannot_be_told_is_not(plate):
    signatures, _ = plate
    profiles = Profiles(fit_scale([signatures.take(slice(0, 400))]))
    profiles.add(signatures.take(slice(0, 400)), signatures.sig_id[:400])
    activity = profiles.activity()
    assert np.isnan(activity.p).all()
    assert np.isnan(activity.strength).all()


def test_a_reservoir_keeps_each_row_as_often():
    kept = np.zeros(20)
    for seed in range(2000):
        reservoir = Reservoir(5, seed)
        for part in (np.arange(8.0), np.arange(8.0, 20)):
            reservoir.add(part[:, None])
        kept[reservoir.rows[:, 0].astype(int)] += 1
    assert kept.sum() == 10_000
    assert np.abs(kept - 500).max() < 100  # five standard deviations


def test_neighbours_are_the_most_similar_of_other_drugs(plate):
    signatures, drug = plate
    labels = np.zeros((600, 2), np.float32)
    labels[:4, 1] = 1
    dataset = Dataset(signatures, labels, ("x", "y"), drug)
    scale = fit_scale([signatures])
    reference = Reference(dataset, scale)
    assert len(reference.names) == 100  # the controls are no drug
    z = scale(signatures.take(slice(0, 4))).mean(axis=0, keepdims=True)
    (known,), (new,) = reference.nearest(["d000"], z), reference.nearest(["new"], z)
    assert (new[0].drug, new[0].mechanisms) == ("d000", ("y",))
    assert new[0].similarity == pytest.approx(1)
    assert known[0].drug != "d000"
    assert known == new[1:] + known[2:]
    far = reference.nearest(["far"], np.random.default_rng(1).normal(size=(1, GENES)))
    assert len(far[0]) == 3
    moved = dataclasses.replace(dataset, drug_id=None)
    assert len(Reference(moved, scale).names) == 400
