"""`moa-tf predict` from table to table: rows a second, where the time goes, and memory.

The peer is what one would write by hand: `pandas.read_csv`, the SavedModel on batches, `DataFrame.to_csv`. Both use
the same SavedModel, untrained, of the competition's size, and run in turns in processes of their own.

    python benchmarks/predict.py --rows 20000 --repeats 3
    python benchmarks/predict.py --rows 1000000 --memory      # writes 6.5 GB to --dir
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from moa_tf.data.schema import DOSES, TYPES, Signatures, SignatureSpec

SPEC = SignatureSpec(tuple(f"g-{i}" for i in range(772)), tuple(f"c-{i}" for i in range(100)))
TARGETS = tuple(f"target_{i}" for i in range(206))
CHUNK = 5000


def random_signatures(rows: int, seed: int) -> Signatures:
    rng = np.random.default_rng(seed)
    return Signatures(
        SPEC,
        np.array([f"id_{seed:06x}{i:06x}" for i in range(rows)], object),
        rng.normal(size=(rows, 772)).astype(np.float32).round(4),
        rng.normal(size=(rows, 100)).astype(np.float32).round(4),
        (rng.random(rows) < 0.08).astype(np.int32),
        rng.choice([24, 48, 72], rows).astype(np.float32),
        rng.integers(0, 2, rows).astype(np.int32),
    )


def write_features(path: Path, rows: int) -> None:
    """A features table as the competition has, in flat memory."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    names = ["sig_id", "cp_type", "cp_time", "cp_dose", *SPEC.features]
    writer = None
    for start in range(0, rows, CHUNK):
        s = random_signatures(min(CHUNK, rows - start), start)
        numbers = np.asfortranarray(np.hstack([s.genes, s.cells]))
        text = [np.array(TYPES, object)[s.cp_type], np.array(DOSES, object)[s.cp_dose]]
        batch = pa.record_batch([s.sig_id, text[0], s.cp_time.astype(int), text[1], *numbers.T], names=names)
        if writer is None:
            kind = parquet.ParquetWriter if path.suffix == ".parquet" else csv.CSVWriter
            writer = kind(path, batch.schema)
        writer.write_batch(batch)
    writer.close()


def export_model(root: Path, preset: str, folds: int) -> None:
    from moa_tf.ensemble.ensemble import Ensemble
    from moa_tf.models.base import Member, get_family
    from moa_tf.serving.export import export

    family = get_family("mlp")
    members = []
    for fold in range(folds):
        architecture = family.presets[preset].architecture
        preprocessing = family.fit_preprocessing(random_signatures(3000, fold), architecture, fold)
        network = family.build(preprocessing, architecture, np.full(len(TARGETS), 0.003), fold)
        members.append(Member(preprocessing, [network]))
    export(Ensemble.of(members), root, spec=SPEC, target_names=TARGETS, metadata={"simulated": True})


def memory(field: str) -> float:
    """MB that this process has (VmRSS) or at most had (VmHWM), as Linux counts them."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def run_ours(root: Path, features: Path, out: Path, batch_size: int) -> dict[str, float]:
    from moa_tf.serving.predict import load_model, predict_table

    model = load_model(root)
    model.predict(random_signatures(batch_size, 0), batch_size)
    before = memory("VmRSS")
    start = time.perf_counter()
    predict_table(model, features, out, batch_size=batch_size)
    return {"seconds": time.perf_counter() - start, "more_mb": memory("VmHWM") - before}


def run_peer(root: Path, features: Path, out: Path, batch_size: int) -> dict[str, float]:
    import pandas as pd
    import tensorflow as tf

    from moa_tf.serving.predict import load_model

    model = load_model(root)
    model.predict(random_signatures(batch_size, 0), batch_size)
    serve = model.loaded.signatures["serving_default"]
    before = memory("VmRSS")
    start = time.perf_counter()
    table = pd.read_parquet(features) if features.suffix == ".parquet" else pd.read_csv(features)
    parts = []
    for first in range(0, len(table), batch_size):
        rows = table.iloc[first : first + batch_size]
        inputs = {
            "genes": rows[list(SPEC.genes)].to_numpy(np.float32),
            "cells": rows[list(SPEC.cells)].to_numpy(np.float32),
            "cp_time": rows["cp_time"].to_numpy(np.float32),
            "cp_type": rows["cp_type"].to_numpy(object),
            "cp_dose": rows["cp_dose"].to_numpy(object),
        }
        parts.append(serve(**{name: tf.constant(values) for name, values in inputs.items()})["probabilities"])
    result = pd.DataFrame(np.concatenate(parts), columns=TARGETS)
    result.insert(0, "sig_id", table["sig_id"])
    result.to_parquet(out, index=False) if out.suffix == ".parquet" else result.to_csv(out, index=False)
    return {"seconds": time.perf_counter() - start, "more_mb": memory("VmHWM") - before}


def run_stages(root: Path, features: Path, out: Path, batch_size: int) -> dict[str, float]:
    """Seconds of each stage alone; of computing, at several batch sizes; of writing, against pandas."""
    import pandas as pd

    from moa_tf.data.read import iter_features
    from moa_tf.serving.predict import load_model, table_writer

    seconds = {}

    def measure(name: str, work) -> object:
        start = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - start
        return result

    chunks = measure("read", lambda: list(iter_features(features, SPEC, rows=batch_size)))
    model = load_model(root)
    measure("first batch", lambda: model.predict(chunks[0], batch_size))
    results = measure(
        f"compute, batch {batch_size}", lambda: [model.predict(chunk, batch_size) for chunk in chunks]
    )
    rows = sum(map(len, chunks))
    for size in (256, 1024, 4096, 8192):
        signatures = random_signatures(size, 1)
        model.predict(signatures, size)
        times = max(1, 8192 // size)
        start = time.perf_counter()
        for _ in range(times):
            model.predict(signatures, size)
        seconds[f"compute, batch {size}, scaled to {rows} rows"] = (
            (time.perf_counter() - start) / (times * size) * rows
        )

    def write(path: Path) -> None:
        with table_writer(path, TARGETS) as append:
            for chunk, probabilities in zip(chunks, results, strict=True):
                append(chunk.sig_id, probabilities)

    for suffix in (".csv", ".csv.gz", ".parquet"):
        measure(f"write {suffix}", lambda s=suffix: write(out.parent / f"stage{s}"))
    frame = pd.DataFrame(np.concatenate(results), columns=TARGETS)
    frame.insert(0, "sig_id", np.concatenate([chunk.sig_id for chunk in chunks]))
    measure("write .csv, pandas", lambda: frame.to_csv(out.parent / "stage.csv", index=False))
    return seconds


RUNS = {"ours": run_ours, "peer": run_peer, "stages": run_stages}


def child(kind: str, options: argparse.Namespace, directory: Path, features: Path) -> dict[str, float]:
    """Runs one kind in a process of its own."""
    arguments = [directory / "model", features, directory / f"out{options.out_format}", options.batch_size]
    command = [sys.executable, __file__, "--child", kind, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--format", choices=[".csv", ".parquet"], default=".csv")
    parser.add_argument("--out-format", choices=[".csv", ".csv.gz", ".parquet"], default=".csv")
    parser.add_argument("--preset", default="one-cycle")
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="Only ours, once, for its memory.")
    parser.add_argument("--dir", type=Path, help="Where the tables go. [default: a temporary directory]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        directory = Path(name)
        features = directory / f"features{options.format}"
        write_features(features, options.rows)
        export_model(directory / "model", options.preset, options.folds)
        print(
            f"{options.rows} signatures, {features.stat().st_size / 1e6:.0f} MB {options.format} -> "
            f"{options.out_format}; {options.folds} networks, preset {options.preset}; batch {options.batch_size}"
        )
        if options.memory:
            result = child("ours", options, directory, features)
            rate = options.rows / result["seconds"]
            print(f"{rate:,.0f} rows/s; {result['more_mb']:.0f} MB more than the loaded model")
            return
        for stage, seconds in child("stages", options, directory, features).items():
            print(f"  {stage:45} {seconds:8.2f} s")
        results = {"ours": [], "peer": []}
        for _ in range(options.repeats):
            for kind, several in results.items():
                several.append(child(kind, options, directory, features))
        medians = {}
        for kind, several in results.items():
            medians[kind] = statistics.median(result["seconds"] for result in several)
            more = max(result["more_mb"] for result in several)
            print(
                f"{kind}: {options.rows / medians[kind]:8,.0f} rows/s (median of {options.repeats}), {more:.0f} MB"
            )
        print(f"ratio: {medians['peer'] / medians['ours']:.2f} (above 1: ours is faster)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        kind, root, features, out, batch_size = sys.argv[2:]
        result = RUNS[kind](Path(root), Path(features), Path(out), int(batch_size))
        print(json.dumps(result))
    else:
        main()
