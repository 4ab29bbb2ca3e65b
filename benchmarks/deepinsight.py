"""DeepInsight images per second and the memory they take, beside pyDeepInsight on the same map.

    python benchmarks/deepinsight.py [--sizes 224,300] [--rounds 30] [--out deepinsight.json]

Needs `moa-tf` and pyDeepInsight 0.2.3 (extra `peers`) in one environment. Both get one map, the same values and
the same batches of 32, in one process, in turns of eight batches as in a stream; medians over all batches.
Values are random: the time does not depend on them.

glibc gives blocks of 32 MB and more (32 images of 300²) back to the system when they are freed, so that every
batch would be written to fresh pages, which takes longer than drawing it. For both, the benchmark has glibc keep
them (MALLOC_MMAP_MAX_=0 and a high MALLOC_TRIM_THRESHOLD_); `--malloc default` measures without that.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import MagicMock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

FEATURES = 872
BATCH = 32
SIGNATURES = 23_814
TURN = 8
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_ARENA_MAX": "1"}


def make_embedding(seed: int = 0) -> np.ndarray:
    """Points in clusters, as t-SNE leaves them."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(0, 25, (120, 2))
    return centers[rng.integers(0, 120, FEATURES)] + rng.normal(0, 2.5, (FEATURES, 2))


def make_peer(embedding: np.ndarray, size: int):
    # pyDeepInsight's package imports these for class activation maps, which play no part here; its extra for them
    # asks for NumPy below 2.
    for name in ("pytorch_grad_cam", "pytorch_grad_cam.utils.model_targets", "torchcam.methods._utils"):
        sys.modules.setdefault(name, MagicMock())
    from pyDeepInsight import ImageTransformer

    class Given:
        def fit_transform(self, x):
            return embedding

    return ImageTransformer(Given(), discretization="bin", pixels=(size, size)).fit(np.zeros((2, FEATURES)))


def make_ours(embedding: np.ndarray, size: int, channels: str, jit: bool):
    import tensorflow as tf

    from moa_tf.preprocessing.feature_map import align_to_rectangle, to_pixels
    from moa_tf.preprocessing.image import FeatureImage

    pixels = to_pixels(align_to_rectangle(embedding, "pydeepinsight"), size)
    layer = FeatureImage(pixels, size, channels)
    signature = [tf.TensorSpec((None, FEATURES), tf.float32)]
    return pixels, tf.function(layer, input_signature=signature, jit_compile=jit)


def time_once(function, argument) -> float:
    start = time.perf_counter()
    function(argument)
    return time.perf_counter() - start


def compare(size: int, rounds: int) -> dict[str, float]:
    embedding = make_embedding()
    values = np.random.default_rng(1).uniform(size=(BATCH, FEATURES)).astype(np.float32)
    peer = make_peer(embedding, size)
    pixels, grey = make_ours(embedding, size, "grey", jit=True)
    np.testing.assert_array_equal(pixels, peer.coords())
    np.testing.assert_allclose(grey(values).numpy(), peer.transform(values), atol=1e-6)

    import tensorflow as tf

    tensor = tf.constant(values)
    # The floor. The sum keeps the compiler from making the zeros once for all.
    shape = (BATCH, size, size, 3)
    fill = tf.function(lambda values: tf.zeros(shape) + 0.0 * values[0, 0], jit_compile=True)
    # The machine's own floor, in one thread and in two: ctypes lets go of the interpreter while C works.
    zeros = np.empty(shape, np.float32)
    half = zeros.nbytes // 2
    pool = ThreadPoolExecutor(2)

    def clear_by_two(start: int) -> None:
        list(pool.map(lambda part: ctypes.memset(start + part * half, 0, half), range(2)))

    contestants = {
        "pyDeepInsight": (peer.transform, values),
        "moa-tf, grey, XLA": (grey, tensor),
        "moa-tf, mean-min-max, XLA": (make_ours(embedding, size, "mean-min-max", jit=True)[1], tensor),
        "zeros of that size, XLA": (fill, tensor),
        "moa-tf, mean-min-max": (make_ours(embedding, size, "mean-min-max", jit=False)[1], tensor),
        "memset of that size, 1 thread": (
            lambda start: ctypes.memset(start, 0, zeros.nbytes),
            zeros.ctypes.data,
        ),
        "memset of that size, 2 threads": (clear_by_two, zeros.ctypes.data),
    }
    times = {name: [] for name in contestants}
    for function, argument in contestants.values():
        function(argument)  # The first call compiles.
    for _ in range(rounds):
        for name, (function, argument) in contestants.items():
            function(argument)  # Memory that the contestant before had is taken over untimed.
            times[name] += [time_once(function, argument) for _ in range(TURN)]
    return {name: BATCH / float(np.median(values)) for name, values in times.items()}


def peak_memory(kind: str, size: int, signatures: int) -> float:
    """GiB that drawing so many images adds to the process's peak; run in a process of its own."""
    embedding = make_embedding()
    values = np.random.default_rng(1).uniform(size=(signatures, FEATURES)).astype(np.float32)
    if kind == "peer":
        peer = make_peer(embedding, size)
        before = restart_peak()
        peer.transform(values)
    else:
        draw = make_ours(embedding, size, "mean-min-max", jit=True)[1]
        before = restart_peak()
        for start in range(0, signatures - BATCH + 1, BATCH):
            draw(values[start : start + BATCH])
    return (memory("VmHWM") - before) / 2**20


def memory(field: str) -> int:
    """KiB of this process: VmRSS is what it has now, VmHWM the most that it had."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def restart_peak() -> int:
    """Lets VmHWM begin anew, as importing took more than drawing does; returns VmRSS."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return memory("VmRSS")


def measure_memory(kind: str, size: int, signatures: int) -> float:
    command = [
        sys.executable,
        __file__,
        "--memory-of",
        kind,
        "--sizes",
        str(size),
        "--rounds",
        str(signatures),
    ]
    # With the allocator as it comes: kept memory would count what a stream has given back.
    environment = {name: value for name, value in os.environ.items() if name not in KEEP_MEMORY}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="224,300")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--malloc", choices=["keep", "default"], default="keep")
    parser.add_argument("--out", help="also write the figures as JSON")
    parser.add_argument("--memory-of", choices=["ours", "peer"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    if arguments.memory_of:
        print(peak_memory(arguments.memory_of, sizes[0], arguments.rounds))
        return

    import tensorflow as tf

    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; TensorFlow {tf.__version__}"
    )
    results = {}
    for size in sizes:
        rates = compare(size, arguments.rounds)
        base = rates["pyDeepInsight"]
        print(f"\n{size} x {size}, batches of {BATCH}{'':18}images/s   times pyDeepInsight")
        for name, rate in rates.items():
            print(f"  {name:34}{rate:12,.0f}{rate / base:12.1f}")
        ours = measure_memory("ours", size, SIGNATURES)
        # The peer makes the whole set at once: measured on a part that fits, then in proportion.
        part = 1_000
        peer = measure_memory("peer", size, part) * SIGNATURES / part
        print(f"  memory for {SIGNATURES:,} signatures: ours {ours:.2f} GiB (streamed), peer {peer:.0f} GiB")
        results[size] = {"images_per_second": rates, "memory_gib": {"moa-tf": ours, "pyDeepInsight": peer}}
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
