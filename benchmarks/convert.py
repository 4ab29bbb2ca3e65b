"""`data convert` of a generated GCTX file against a plain h5py and pyarrow loop, alternating, each in its own process.

usage: python benchmarks/convert.py [--signatures 100000] [--genes 978] [--runs 3]

The product reads metadata, labels drugs, writes the whole layout and has it reach the disk; the peer writes the numbers
and nothing else, into one file, with the same settings of Parquet. MB are those of the float32 matrix.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moa_tf.data.conversion.convert import Options, convert
from moa_tf.data.conversion.write import BLOCK

BATCH = 10_000


def generate(directory, signatures, genes):
    """A compound level-5 file as LINCS 2020 has them, with siginfo and compoundinfo."""
    rng = np.random.default_rng(0)
    ids = np.array(
        [f"CPC{i % 300:03d}_A375_24H:BRD-K{i % 20_000:08d}-001-01-1:{i}" for i in range(signatures)], "S"
    )
    with h5py.File(directory / "level5.gctx", "w") as file:
        file.attrs["version"] = np.bytes_("GCTX1.0")
        matrix = file.create_dataset("0/DATA/0/matrix", (signatures, genes), "f4")
        for start in range(0, signatures, BATCH):
            matrix[start : start + BATCH] = rng.standard_normal(
                (min(BATCH, signatures - start), genes), np.float32
            )
        file["0/META/COL/id"] = ids
        file["0/META/ROW/id"] = np.array([str(10**6 + i) for i in range(genes)], "S")
    with (directory / "siginfo.txt").open("w") as file:
        file.write(
            "sig_id\tpert_id\tcmap_name\tpert_type\tcell_iname\tpert_dose\tpert_dose_unit\tpert_time\ttas\n"
        )
        for i, name in enumerate(ids.astype(str)):
            kind = "ctl_vehicle" if i % 20 == 0 else "trt_cp"
            drug = "DMSO" if i % 20 == 0 else f"BRD-K{i % 20_000:08d}"
            file.write(f"{name}\t{drug}\t{drug}\t{kind}\tA375\t{10 / (1 + i % 6):.2f}\tuM\t24\t0.5\n")
    with (directory / "compoundinfo.txt").open("w") as file:
        file.write("pert_id\tmoa\n")
        for i in range(0, 20_000, 2):
            file.write(f"BRD-K{i:08d}\tmechanism {i % 200}\n")


def product(directory, out):
    options = Options(signatures=directory / "siginfo.txt", compounds=directory / "compoundinfo.txt")
    convert(directory / "level5.gctx", out, options)


def plain(directory, out):
    out.mkdir()
    with h5py.File(directory / "level5.gctx") as file:
        matrix, ids = file["0/DATA/0/matrix"], file["0/META/COL/id"][...].astype(str)
        names = [f"g-{name}" for name in file["0/META/ROW/id"][...].astype(str)]
        schema = pa.schema([("sig_id", pa.string()), *((name, pa.float32()) for name in names)])
        rows = BLOCK // (4 * len(names))
        with pq.ParquetWriter(out / "features.parquet", schema, use_dictionary=["sig_id"]) as writer:
            for start in range(0, len(ids), rows):
                values = np.ascontiguousarray(matrix[start : start + rows].T)
                arrays = [pa.array(ids[start : start + rows]), *map(pa.array, values)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


WAYS = {"data convert": product, "plain loop": plain}


def high_water():
    """MB of peak memory of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--signatures", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=978)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        name, directory, out = args.run
        start = time.perf_counter()
        WAYS[name](Path(directory), Path(out))
        print(time.perf_counter() - start, high_water())
        return
    with tempfile.TemporaryDirectory(prefix="moa-tf-") as folder:
        directory = Path(folder)
        generate(directory, args.signatures, args.genes)
        results = {name: [] for name in WAYS}
        for run in range(args.runs):
            for name in WAYS:
                out = directory / f"out-{run}"
                command = [sys.executable, __file__, "--run", name, str(directory), str(out)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                results[name].append(tuple(map(float, done.stdout.split())))
                shutil.rmtree(out)
    megabytes = args.signatures * args.genes * 4 / 1e6
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    print(
        f"{args.signatures:,} × {args.genes}, {megabytes:.0f} MB, {machine}, h5py {h5py.__version__}, ",
        end="",
    )
    print(f"pyarrow {pa.__version__}, numpy {np.__version__}")
    print(f"{'way':<15}{'median s':>10}{'MB/s':>8}{'ratio':>8}{'peak MB':>10}")
    medians = {name: statistics.median(seconds for seconds, _ in of) for name, of in results.items()}
    for name, of in results.items():
        seconds = medians[name]
        ratio = seconds / medians["plain loop"]
        print(
            f"{name:<15}{seconds:>10.1f}{megabytes / seconds:>8.0f}{ratio:>8.2f}{max(m for _, m in of):>10.0f}"
        )


if __name__ == "__main__":
    main()
