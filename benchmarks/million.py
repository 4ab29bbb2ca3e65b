"""Training on tables larger than memory: `moa-tf train --storage disk`, its memory, its speed, and a kill on the way.

    python benchmarks/million.py DIR [--signatures 1000000] [--epochs 2] [--all-folds] [--kill] [--compare N]
        [OPTION of train …]

Writes a table of that many signatures × 872 features × 206 targets to DIR, unless it is there, in Parquet parts of
50,000 signatures; its values are drawn at random around the labels and say nothing of real drugs. Then it trains fold 0
of it (`--all-folds`: all five) by `moa-tf train` in a child process, and prints that one's memory at its highest: what
is its own (RssAnon), and pages of mapped files (RssFile), which the system drops where it needs them; and the disk that
it took. `--kill` kills it (SIGKILL) after the first checkpoint, and resumes it. `--compare N` trains from memory, from
disk and with features in bfloat16 there in N turns, and prints the ratios of samples/s, judging included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GENES, CELLS, TARGETS, NONE = 772, 100, 206, 0.4
PART = 50_000
CONTROLS, ROWS_OF_A_DRUG = 0.08, 9
STEMS = ("train_features", "train_targets_scored", "train_drug")


def write_part(directory, number, rows, effects, shares):
    """A part of each table, with drugs of its own."""
    rng = np.random.default_rng([1, number])
    controls = round(CONTROLS * rows)
    drug = np.r_[np.arange(rows - controls) // ROWS_OF_A_DRUG, np.full(controls, -1)]
    labels = (rng.random((drug.max() + 1, TARGETS)) < shares).astype(np.int8)
    labels[rng.random(len(labels)) < NONE] = 0
    of_row = np.where(drug[:, None] < 0, np.int8(0), labels[drug])
    order = rng.permutation(rows)
    drug, of_row = drug[order], of_row[order]
    values = rng.standard_normal((rows, GENES + CELLS), np.float32) + of_row.astype(np.float32) @ effects
    ids = [f"sig_{number * PART + i:08d}" for i in range(rows)]
    features = {
        "sig_id": ids,
        "cp_type": np.where(drug < 0, "ctl_vehicle", "trt_cp"),
        "cp_time": rng.choice([24, 48, 72], rows),
        "cp_dose": rng.choice(["D1", "D2"], rows),
    }
    names = [*(f"g-{j}" for j in range(GENES)), *(f"c-{j}" for j in range(CELLS))]
    features |= {name: values[:, j] for j, name in enumerate(names)}
    targets = {"sig_id": ids} | {f"mechanism_{j:03d}": of_row[:, j] for j in range(TARGETS)}
    names_of_drugs = ["vehicle" if d < 0 else f"drug_{number:03d}_{d:05d}" for d in drug]
    drugs = {"sig_id": ids, "drug_id": names_of_drugs}
    for stem, table in zip(STEMS, (features, targets, drugs), strict=True):
        pq.write_table(pa.table(table), directory / f"{stem}.parquet" / f"part-{number:05d}.parquet")


def write_table(directory, signatures):
    effects = np.random.default_rng(0).standard_normal((TARGETS, GENES + CELLS)).astype(np.float32) * 0.3
    shares = np.geomspace(0.03, 0.0005, TARGETS)
    for stem in STEMS:
        (directory / f"{stem}.parquet").mkdir(parents=True)
    for number, start in enumerate(range(0, signatures, PART)):
        write_part(directory, number, min(PART, signatures - start), effects, shares)


def size(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


class Child:
    """`moa-tf train`, watched from outside."""

    def __init__(self, data, out, options):
        command = [sys.executable, "-c", "from moa_tf.cli.main import main; main()", "train", "--data", data]
        command += ["--out", out, *options]
        self.out, self.began, self.peaks, self.used = out, time.monotonic(), {}, 0
        self.free = shutil.disk_usage(out.parent).free
        self.process = subprocess.Popen([str(part) for part in command], start_new_session=True)

    def watch(self, until=None):
        """Until it ends, or the file `until` is there; True if it has ended."""
        while self.process.poll() is None:
            if until is not None and until.exists():
                return False
            try:
                status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
            except OSError:
                continue
            for line in status.splitlines():
                name, _, value = line.partition(":")
                if name in ("RssAnon", "RssFile"):
                    self.peaks[name] = max(self.peaks.get(name, 0), int(value.split()[0]) * 1024)
            self.used = max(self.used, self.free - shutil.disk_usage(self.out.parent).free)
            time.sleep(0.2)
        return True

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def report(self, what):
        anonymous, mapped = (self.peaks.get(name, 0) / 1e9 for name in ("RssAnon", "RssFile"))
        print(
            f"{what}: {time.monotonic() - self.began:.0f} s, at most {anonymous:.2f} GB of its own (RssAnon), "
            f"{mapped:.2f} GB of mapped files (RssFile), {self.used / 1e9:.1f} GB of disk, status "
            f"{self.process.returncode}",
            flush=True,
        )


def speed(out, epochs):
    """Samples/s of training, judging included."""
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    held_out = np.load(out / "fold-0/seed-0/predictions.npy", mmap_mode="r")
    cost = json.loads((out / "fold-0/seed-0/cost.json").read_text(encoding="utf-8"))
    return epochs * (run["data"]["signatures"] * (1 - CONTROLS) - len(held_out)) / cost["seconds"]


def train(data, out, options, kill=False):
    shutil.rmtree(out, ignore_errors=True)
    child = Child(data, out, options)
    if kill and not child.watch(out / "fold-0/seed-0/checkpoint.npz"):
        time.sleep(5)
        child.kill()
        child.report("killed")
        child = Child(data, out, [*options, "--resume"])
    child.watch()
    child.report("trained")
    if child.process.returncode:
        sys.exit("moa-tf train failed")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--signatures", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--all-folds", action="store_true")
    parser.add_argument("--kill", action="store_true", help="kill it after the first checkpoint, and resume")
    parser.add_argument("--compare", type=int, default=0, metavar="N", help="N turns by each storage")
    arguments, options = parser.parse_known_args()
    options += ["--epochs", arguments.epochs]
    if not arguments.all_folds:
        options += ["--only-fold", "0"]
    data = arguments.directory / f"table-{arguments.signatures}"
    if not data.exists():
        write_table(data, arguments.signatures)
    print(f"{data}: {size(data) / 1e9:.1f} GB of Parquet, {os.cpu_count()} cores", flush=True)
    if not arguments.compare:
        out = arguments.directory / "run"
        train(data, out, ["--storage", "disk", *options], arguments.kill)
        if not arguments.kill and not arguments.all_folds:
            print(f"{speed(out, arguments.epochs):,.0f} samples/s")
        return
    speeds = {"memory": [], "disk": [], "disk-bfloat16": []}
    for _ in range(arguments.compare):
        for storage, found in speeds.items():
            out = arguments.directory / f"run-{storage}"
            train(data, out, [*options, "--storage", storage])
            found.append(speed(out, arguments.epochs))
            print(f"{storage}: {found[-1]:,.0f} samples/s", flush=True)
    tables = [(arguments.directory / f"run-{storage}" / "oof.parquet").read_bytes() for storage in speeds]
    memory = speeds.pop("memory")
    for (storage, found), table in zip(speeds.items(), tables[1:], strict=True):
        ratios = [ours / theirs for ours, theirs in zip(found, memory, strict=True)]
        print(
            f"{storage} / memory: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
            f"predictions are {'the same' if table == tables[0] else 'others'}"
        )


if __name__ == "__main__":
    main()
