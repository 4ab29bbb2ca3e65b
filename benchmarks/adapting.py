"""Fitting the preprocessing on all training signatures: rank-Gauss beside scikit-learn's, and a preset's whole.

    python benchmarks/adapting.py [--signatures 23814] [--rounds 3]

Both find 1,000 quantiles of each of 872 columns from every row, in turns; medians. Values are random and normal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from predict import random_signatures
from sklearn.preprocessing import QuantileTransformer

from moa_tf.models.base import get_family
from moa_tf.preprocessing import QuantileToNormal

QUANTILES = 1000


def seconds(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--signatures", type=int, default=23_814)
    parser.add_argument("--preset", default="one-cycle", help="of the MLP")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    signatures = random_signatures(arguments.signatures, 0)
    family = get_family("mlp")
    architecture = family.presets[arguments.preset].architecture
    peer = QuantileTransformer(n_quantiles=QUANTILES, output_distribution="normal", subsample=None)

    def scale_ours() -> None:
        for values in (signatures.genes, signatures.cells):
            QuantileToNormal(QUANTILES).adapt(values)

    def scale_theirs() -> None:
        for values in (signatures.genes, signatures.cells):
            peer.fit(values)

    work = {
        "rank-Gauss, moa-tf": scale_ours,
        "rank-Gauss, scikit-learn": scale_theirs,
        f"preset {arguments.preset}": lambda: family.fit_preprocessing(signatures, architecture, 0),
    }
    times = {name: [] for name in work}
    for turn in range(arguments.rounds + 1):
        for name, function in work.items():
            taken = seconds(function)
            if turn:
                times[name].append(taken)
    ours, theirs, _ = medians = [statistics.median(values) for values in times.values()]
    print(f"{len(signatures)} signatures of 872 values, median of {arguments.rounds}")
    for name, median in zip(times, medians, strict=True):
        print(f"{name:28}{median:8.2f} s")
    print(f"ratio, scikit-learn to moa-tf {theirs / ours:6.2f}")


if __name__ == "__main__":
    main()
