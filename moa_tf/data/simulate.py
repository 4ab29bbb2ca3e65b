"""Simulated signatures whose labels can be learnt, for a first run and for tests.

The model, for drug d with mechanisms M(d), measured at dose and time with gain a:

    expression = a (p_d Σ_{m ∈ M(d)} s_m + o_d) + b_plate + e          [genes]
    viability  = −a t_d v_d + a p_d Σ_{m ∈ M(d)} w_m + u + e           [cell lines]

s_m, o_d, b_plate and part of e are drawn as factor scores times one matrix of loadings, so genes correlate; the
rest of e is independent. p_d is the drug's potency, o_d its own effect beside its mechanisms, t_d its toxicity,
v_d how much of that each cell line feels, u the well's effect on all of them. A control has neither mechanism
nor o_d nor t_d. At last every value x becomes sinh(x / 2) · 2, which gives heavy tails, is clipped at ±10 and
rounded to 4 decimals, as the competition's were.

No value is taken from measured data: what is trained on it says nothing about real drugs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

import moa_tf
from moa_tf.atomic import sync, sync_tree, temporary_directory
from moa_tf.data.read import MARKER, complete
from moa_tf.data.schema import CONTROL, DOSES, TYPES, Dataset, Signatures, SignatureSpec
from moa_tf.errors import InputError

SIGNATURES = 3000
TIMES = (24.0, 48.0, 72.0)
VEHICLE = "vehicle"

_VERSION = 1
_FEWEST = 100
_CONTROLS = 0.08
_TEST = 0.2
_FACTORS = 60
_PLATE_ROWS = 100
_DOSE_GAIN = np.array([0.75, 1.2])
_TIME_GAIN = np.array([0.85, 1.0, 1.1])
_STRENGTH = 0.2


@dataclass(frozen=True)
class _Design:
    """Which drug, dose and time each row has, and which mechanisms each drug; the last drug is the vehicle."""

    drug: np.ndarray
    dose: np.ndarray
    time: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class _Effects:
    """What mechanisms do: `genes` [M, G] and `cells` [M, C], with the `loadings` [factors, G] of the genes."""

    loadings: np.ndarray
    genes: np.ndarray
    cells: np.ndarray


def simulate(signatures: int = SIGNATURES, seed: int = 0, genes: int = 772, cells: int = 100) -> Dataset:
    """Simulated training data.

    A drug has 6 signatures (2 doses, 3 times), 8 % of the signatures are vehicle controls. There are 40 scored
    mechanisms, fewer where there are fewer than 440 drugs, and half as many nonscored ones. A drug has 0 to 3
    scored mechanisms; at least 4 drugs have each.

    Args:
        signatures: how many, at least 100.
        seed: the same seed gives the same data.
        genes: number of genes.
        cells: number of cell lines; 0 for none.

    Returns:
        The dataset, with `simulated` true.

    Raises:
        InputError: too few signatures.
    """
    return _generate(signatures, seed, genes, cells)[0]


def write_simulation(out: str | Path, signatures: int = SIGNATURES, seed: int = 0) -> Path:
    """Writes `simulate(signatures, seed)` and a fifth as many test signatures in the competition's layout.

    The directory appears complete or not at all.

    Args:
        out: a directory that does not exist yet, or is empty.
        signatures: number of training signatures.
        seed: as for `simulate`.

    Returns:
        The directory.

    Raises:
        InputError: `out` is there and not empty, cannot be written, or too few signatures.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists, expected a new or empty directory")
    dataset, test = _generate(signatures, seed)
    marker = {
        "generator": "moa-tf data simulate",
        "generator_version": _VERSION,
        "moa_tf": moa_tf.__version__,
        "signatures": signatures,
        "seed": seed,
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary_directory(out.parent, out) as partial:
            _write_tables(partial, dataset, test)
            (partial / MARKER).write_text(json.dumps(marker, indent=2) + "\n")
            sync_tree(partial)
            partial.rename(out)  # Replaces an empty directory.
            sync(out.parent)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from error
    return out


def _generate(n: int, seed: int, genes: int = 772, cells: int = 100) -> tuple[Dataset, Signatures]:
    if n < _FEWEST:
        raise InputError(f"--signatures {n}: expected at least {_FEWEST}")
    if seed < 0:
        raise InputError(f"--seed {seed}: expected at least 0")
    rng = np.random.default_rng(seed)
    controls = round(n * _CONTROLS)
    drugs = -(-(n - controls) // (len(DOSES) * len(TIMES)))
    scored = int(np.clip(drugs // 11, 4, 40))
    nonscored = scored // 2
    effects = _draw_effects(rng, scored + nonscored, genes, cells)
    spec = SignatureSpec(tuple(f"g-{i}" for i in range(genes)), tuple(f"c-{i}" for i in range(cells)))

    train = _draw_design(rng, n, controls, drugs, scored, nonscored)
    n_test = round(n * _TEST)
    test_controls = round(n_test * _CONTROLS)
    test = _draw_design(rng, n_test, test_controls, -(-(n_test - test_controls) // 6), scored, nonscored)
    names = [f"mechanism_{i:02d}" for i in range(scored + nonscored)]
    labels = train.labels[train.drug]
    vehicle = train.drug == drugs
    drug_id = np.array(
        [VEHICLE if control else f"drug_{d:04d}" for d, control in zip(train.drug, vehicle, strict=True)],
        object,
    )
    dataset = Dataset(
        signatures=_measure(rng, train, effects, spec, "train"),
        targets=np.ascontiguousarray(labels[:, :scored]),
        target_names=tuple(names[:scored]),
        drug_id=drug_id,
        nonscored=np.ascontiguousarray(labels[:, scored:]),
        nonscored_names=tuple(names[scored:]),
        source=f"simulated sample ({n} signatures, seed {seed})",
        simulated=True,
    )
    return complete(dataset, ignored_columns=[]), _measure(rng, test, effects, spec, "test")


def _draw_effects(rng: np.random.Generator, mechanisms: int, genes: int, cells: int) -> _Effects:
    scale = np.linspace(1.5, 0.5, _FACTORS)[:, None]
    loadings = scale * rng.standard_normal((_FACTORS, genes))
    loadings /= np.sqrt((loadings**2).sum(0))  # Every gene has variance 1 over random factor scores.
    return _Effects(
        loadings,
        _draw_correlated(rng, mechanisms, loadings),
        rng.standard_normal((mechanisms, cells)) - rng.lognormal(-1, 1, (mechanisms, 1)),
    )


def _draw_correlated(rng: np.random.Generator, n: int, loadings: np.ndarray) -> np.ndarray:
    """[n, G] profiles of variance 1 with the loadings' gene-gene correlation."""
    return rng.standard_normal((n, len(loadings))) @ loadings


def _draw_design(
    rng: np.random.Generator, n: int, controls: int, drugs: int, scored: int, nonscored: int
) -> _Design:
    treated = n - controls
    drug = np.r_[np.arange(treated) // 6, np.full(controls, drugs)]
    # The rows of a drug go through all doses and times, from a start of its own.
    place = np.r_[
        np.arange(treated) + rng.integers(0, 6, drugs + 1)[drug[:treated]], rng.integers(0, 6, controls)
    ]
    order = rng.permutation(n)
    labels = np.zeros((drugs + 1, scored + nonscored), np.float32)
    labels[:drugs, :scored] = _draw_labels(rng, drugs, scored, (0.25, 0.6, 0.12, 0.03), fewest=4)
    labels[:drugs, scored:] = _draw_labels(rng, drugs, nonscored, (0.75, 0.25), fewest=0)
    return _Design(drug[order], (place % 2)[order], (place % 3)[order], labels)


def _draw_labels(
    rng: np.random.Generator, drugs: int, mechanisms: int, shares: tuple[float, ...], fewest: int
) -> np.ndarray:
    """[drugs, mechanisms] 0 or 1: `shares[k]` of the drugs have k mechanisms, common ones more often."""
    weight = 1 / (np.arange(mechanisms) + 4.0)
    count = rng.choice(len(shares), drugs, p=shares)
    labels = np.zeros((drugs, mechanisms), np.float32)
    for d in range(drugs):
        labels[
            d, rng.choice(mechanisms, min(count[d], mechanisms), replace=False, p=weight / weight.sum())
        ] = 1
    given = rng.permutation(drugs)[: fewest * mechanisms]
    labels[given] = 0
    labels[given, np.arange(len(given)) % mechanisms] = 1
    return labels


def _measure(
    rng: np.random.Generator, design: _Design, effects: _Effects, spec: SignatureSpec, prefix: str
) -> Signatures:
    drug, n, drugs = design.drug, len(design.drug), len(design.labels)
    active = (np.arange(drugs) < drugs - 1)[:, None]  # All but the vehicle.
    potency = rng.lognormal(0, 0.5, (drugs, 1))
    toxicity = rng.lognormal(-1, 0.8, (drugs, 1)) * rng.uniform(0.5, 1, (drugs, len(spec.cells)))
    own = 0.5 * _draw_correlated(rng, drugs, effects.loadings)
    genes = active * (_STRENGTH * potency * (design.labels @ effects.genes) + own)
    cells = active * (_STRENGTH * potency * (design.labels @ effects.cells) - toxicity)

    gain = (_DOSE_GAIN[design.dose] * _TIME_GAIN[design.time] * rng.lognormal(0, 0.15, n))[:, None]
    plates = -(-n // _PLATE_ROWS)
    plate = 0.3 * _draw_correlated(rng, plates, effects.loadings)[rng.integers(0, plates, n)]
    noise = 0.4 * _draw_correlated(rng, n, effects.loadings) + 0.7 * rng.standard_normal((n, len(spec.genes)))
    well = 0.3 * rng.standard_normal((n, 1)) + 0.6 * rng.standard_normal((n, len(spec.cells)))
    return Signatures(
        spec=spec,
        sig_id=np.array([f"{prefix}_{i:06d}" for i in range(n)], object),
        genes=_heavy_tails(gain * genes[drug] + plate + noise),
        cells=_heavy_tails(gain * cells[drug] + well) if spec.cells else None,
        cp_type=np.where(drug == drugs - 1, CONTROL, TYPES.index("trt_cp")).astype(np.int32),
        cp_time=np.array(TIMES, np.float32)[design.time],
        cp_dose=design.dose.astype(np.int32),
    )


def _heavy_tails(values: np.ndarray) -> np.ndarray:
    return np.round(np.clip(2 * np.sinh(values / 2), -10, 10), 4).astype(np.float32)


def _write_tables(out: Path, dataset: Dataset, test: Signatures) -> None:
    signatures, names = dataset.signatures, dataset.target_names
    _write(out / "train_features.csv", _features(signatures))
    _write(out / "test_features.csv", _features(test))
    _write(out / "train_targets_scored.csv", _labels(signatures.sig_id, names, dataset.targets))
    _write(
        out / "train_targets_nonscored.csv",
        _labels(signatures.sig_id, dataset.nonscored_names, dataset.nonscored),
    )
    _write(out / "train_drug.csv", {"sig_id": signatures.sig_id, "drug_id": dataset.drug_id})
    half = np.full(len(test), 0.5, np.float32)
    _write(out / "sample_submission.csv", {"sig_id": test.sig_id} | dict.fromkeys(names, half))


def _features(signatures: Signatures) -> dict[str, np.ndarray]:
    table: dict[str, np.ndarray] = {
        "sig_id": signatures.sig_id,
        "cp_type": np.array(TYPES, object)[signatures.cp_type],
        "cp_time": signatures.cp_time.astype(int),
        "cp_dose": np.array(DOSES, object)[signatures.cp_dose],
    }
    for names, values in (
        (signatures.spec.genes, signatures.genes),
        (signatures.spec.cells, signatures.cells),
    ):
        table |= {name: values[:, j] for j, name in enumerate(names)}
    return table


def _labels(sig_id: np.ndarray, names: tuple[str, ...], labels: np.ndarray) -> dict[str, np.ndarray]:
    return {"sig_id": sig_id} | {name: labels[:, j].astype(np.int8) for j, name in enumerate(names)}


def _write(path: Path, table: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        # The header by hand: older versions of pyarrow always quote it.
        file.write((",".join(table) + "\n").encode())
        pc.write_csv(pa.table(table), file, pc.WriteOptions(include_header=False, quoting_style="none"))
