"""Loading a features table with all checks, against plain readers of the same file, alternating in one process.

usage: python benchmarks/loading.py FEATURES [--runs 7]        FEATURES: a .csv or .parquet features table
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from moa_tf.data.read import iter_features, read_features


def pandas_plain(path):
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


def arrow_plain(path):
    return pa.parquet.read_table(path) if path.suffix == ".parquet" else pa.csv.read_csv(path)


def streamed(path):
    return sum(len(chunk) for chunk in iter_features(path))


READERS = {
    "pandas": pandas_plain,
    "pyarrow": arrow_plain,
    "read_features": read_features,
    "iter_features": streamed,
}


def high_water():
    """MB of peak memory; unlike getrusage's, without what the parent process had."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def peak(name, path):
    """MB of peak memory that reading adds, in a process of its own."""
    command = [sys.executable, __file__, str(path), "--peak-of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peak-of", choices=READERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        before = high_water()
        READERS[args.peak_of](args.features)
        print(high_water() - before)
        return
    seconds = {name: [] for name in READERS}
    for run in range(args.runs + 1):
        for name, read in READERS.items():
            start = time.perf_counter()
            read(args.features)
            if run:  # The first one warms the page cache.
                seconds[name].append(time.perf_counter() - start)
    plain = statistics.median(seconds["pandas"])
    versions = f"pandas {pd.__version__}, pyarrow {pa.__version__}, numpy {np.__version__}"
    size = args.features.stat().st_size / 1e6
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{args.features.name}, {size:.0f} MB, {machine}, {versions}")
    print(f"{'reader':<15}{'median s':>10}{'best s':>10}{'ratio to pandas':>17}{'peak MB':>10}")
    for name, times in seconds.items():
        median = statistics.median(times)
        memory = peak(name, args.features)
        print(f"{name:<15}{median:>10.2f}{min(times):>10.2f}{median / plain:>17.2f}{memory:>10.0f}")


if __name__ == "__main__":
    main()
