"""Training speed on a GPU, TensorFlow not needed: moa-tf's networks by Keras's JAX backend against PyTorch, in turns.

    KERAS_BACKEND=jax python benchmarks/gpu_speed.py [--models mlp tabnet tabm deepinsight-b0 deepinsight-b3]
        [--precisions float32 tf32 bfloat16] [--peers eager compiled] [--turns 7] [--steps 100] [--batch-size N]
        [--side-by-side] [--json FILE]

Needs JAX with CUDA and, for the peers, PyTorch with CUDA and `pip install pytorch-tabnet==4.1.0 tabm==0.0.3 timm`.
Peers, each also by `torch.compile`: the winners' MLP in torch.nn, pytorch-tabnet's network, the authors' TabM, timm's
EfficientNet on images of 300². A turn is some steps of forward, backward and optimiser (AdamW, fused in PyTorch,
gradients clipped where the preset does) on one random batch that lies on the GPU. Ours draws DeepInsight's image from
876 features in each step, the peer is given it. float32: no TensorFloat-32 on either side; tf32: for products and
convolutions; bfloat16: `mixed_bfloat16`, and autocast. With `--side-by-side` all cases are compiled at once, in a
process each, and then measured one after another while the others wait.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GENES, CELLS, TARGETS, IMAGE = 772, 100, 206, 300
FEATURES = GENES + CELLS + 4
MATMUL = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}
PEERS = {"eager": "PyTorch", "compiled": "PyTorch, compiled"}


@dataclass(frozen=True)
class Case:
    """A network of ours, and its peer.

    Attributes:
        family: name.
        preset: of it.
        settings: as of `--set`.
        batch_size: of a step.
        peer: makes PyTorch's, from [B, …] inputs of `shape` to [B, T] logits, or [B, k, T].
        shape: of the peer's inputs.
    """

    family: str
    preset: str
    settings: tuple[str, ...]
    batch_size: int
    peer: Callable
    shape: tuple[int, ...] = (FEATURES,)


def torch_mlp():
    from torch import nn
    from torch.nn.utils.parametrizations import weight_norm

    layers, inputs = [], FEATURES
    for units, rate in zip((2048, 2048, 2048, TARGETS), (0.15, 0.3, 0.25, 0.25), strict=True):
        norm = nn.BatchNorm1d(inputs, affine=bool(layers))
        layers += [norm, nn.Dropout(rate), weight_norm(nn.Linear(inputs, units), dim=0), nn.LeakyReLU()]
        inputs = units
    return nn.Sequential(*layers[:-1])


def torch_tabnet():
    import torch
    from pytorch_tabnet.tab_network import TabNet
    from torch import nn

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = TabNet(
                FEATURES,
                TARGETS,
                n_d=32,
                n_a=32,
                n_steps=1,
                virtual_batch_size=128,
                mask_type="entmax",
                group_attention_matrix=torch.eye(FEATURES),
            )

        def forward(self, x):
            return self.network(x)[0]

    return Logits()


def torch_tabm():
    # This folder, which Python looks into first, has a file of the package's name.
    here = sys.path.pop(0)
    try:
        from tabm import TabM
    finally:
        sys.path.insert(0, here)
    return TabM.make(n_num_features=FEATURES, d_out=TARGETS, n_blocks=3, d_block=512, dropout=0.1, k=32)


def torch_efficientnet(name):
    import timm

    return timm.create_model(name, num_classes=TARGETS, drop_path_rate=0.2)


def deepinsight(name, batch_size):
    settings = (f"backbone={name}", f"image_size={IMAGE}", "embedding=pca", "weights=none")
    return Case(
        "deepinsight",
        "first-place",
        settings,
        batch_size,
        lambda: torch_efficientnet(f"efficientnet_{name}"),
        (3, IMAGE, IMAGE),
    )


CASES = {
    "mlp": Case("mlp", "one-cycle", (), 256, torch_mlp),
    "tabnet": Case("tabnet", "winners", ("virtual_batch_size=128",), 1024, torch_tabnet),
    "tabm": Case("tabm", "full", ("hidden=512,512,512", "dropout=0.1"), 256, torch_tabm),
    "deepinsight-b0": deepinsight("b0", 64),
    "deepinsight-b3": deepinsight("b3", 32),
}


def make_signatures(rows=300):
    from moa_tf.data.schema import Signatures, SignatureSpec

    rng = np.random.default_rng(0)
    spec = SignatureSpec(tuple(f"g-{i}" for i in range(GENES)), tuple(f"c-{i}" for i in range(CELLS)))
    return Signatures(
        spec,
        np.arange(rows).astype(str).astype(object),
        rng.normal(size=(rows, GENES)).astype("float32"),
        rng.normal(size=(rows, CELLS)).astype("float32"),
        np.zeros(rows, np.int32),
        rng.choice([24.0, 48.0, 72.0], rows).astype("float32"),
        rng.integers(0, 2, rows).astype(np.int32),
    )


def labels(rows):
    return (np.random.default_rng(1).random((rows, TARGETS)) < 0.004).astype("float32")


def make_ours(case, batch_size, precision, steps):
    import jax
    import keras

    from moa_tf.config import override
    from moa_tf.models.base import get_family
    from moa_tf.training.losses import SmoothedBinaryCrossentropy
    from moa_tf.training.optimizers import make_optimizer

    jax.config.update("jax_default_matmul_precision", MATMUL[precision])
    family = get_family(case.family)
    hyperparameters = override(family.presets[case.preset], [*case.settings, "optimizer=adamw"])
    preprocessing = family.fit_preprocessing(make_signatures(), hyperparameters.architecture, 0)
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        network = family.build(preprocessing, hyperparameters.architecture, np.full(TARGETS, 0.004), 0)
    finally:
        keras.config.set_dtype_policy("float32")
    model = keras.Model(network.input, family.training_output(network))
    optimizer = make_optimizer(hyperparameters.recipe, 1e-3)
    optimizer.build(model.trainable_variables)
    loss_of = SmoothedBinaryCrossentropy(0.001)

    def loss(trainable, other, x, y):
        logits, other, losses = model.stateless_call(trainable, other, x, training=True, return_losses=True)
        return loss_of(y, logits) + sum(losses), other

    def step(state, batch):
        trainable, other, optimizing = state
        (value, other), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, other, *batch)
        trainable, optimizing = optimizer.stateless_apply(optimizing, gradients, trainable)
        return (trainable, other, optimizing), value

    step = jax.jit(step, donate_argnums=0)
    rng = np.random.default_rng(2)
    x = {
        name: jax.device_put(rng.random((batch_size, *tensor.shape[1:])).astype(tensor.dtype))
        for name, tensor in model.input.items()
    }
    y = jax.device_put(labels(batch_size))
    variables = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    state = [tuple([variable.value for variable in each] for each in variables)]

    def turn():
        began = time.perf_counter()
        for _ in range(steps):
            state[0], value = step(state[0], (x, y))
        value.block_until_ready()
        return steps * batch_size / (time.perf_counter() - began)

    return turn, hyperparameters.recipe.clip_norm


def make_peer(case, batch_size, precision, steps, clip_norm, compiled):
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(device)  # pytorch-tabnet keeps a matrix where it was made
    network = case.peer().to(device)
    if len(case.shape) == 3:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    call = torch.compile(network) if compiled else network
    loss_of = torch.nn.BCEWithLogitsLoss()
    x = torch.rand(batch_size, *case.shape)
    if len(case.shape) == 3:
        x = x.to(memory_format=torch.channels_last)
    y = torch.from_numpy(labels(batch_size)).to(device) * 0.999 + 0.0005

    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None

    def turn():
        synchronise()
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = call(x)
            several = y if logits.ndim == 2 else y[:, None].expand_as(logits)
            loss_of(logits.float(), several).backward()
            if clip_norm:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
            optimizer.step()
        synchronise()
        return steps * batch_size / (time.perf_counter() - began)

    return turn


def release_memory():
    """What PyTorch keeps for its next step is another process's meanwhile."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def prepare(name, precision, options):
    """Batch size, a turn of each side, compiled, and of a side that failed the reason."""
    began = time.perf_counter()
    case = CASES[name]
    batch_size = options.batch_size or case.batch_size
    turn, clip_norm = make_ours(case, batch_size, precision, options.steps)
    turn()
    took = {"moa-tf": time.perf_counter() - began}
    sides, failed = {"moa-tf": turn}, {}
    for kind in options.peers:
        began, side = time.perf_counter(), PEERS[kind]
        try:
            sides[side] = make_peer(case, batch_size, precision, options.steps, clip_norm, kind == "compiled")
            sides[side]()
            release_memory()
        except Exception as error:  # a peer's own trouble must not cost the others their figures
            sides.pop(side, None)
            failed[side] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        took[side] = time.perf_counter() - began
    print(f"{name}, {precision}: built, compiled and run once in", took, file=sys.stderr, flush=True)
    return batch_size, sides, failed


def race(sides, turns):
    """Samples/s of each side, in turns; the first, in which a GPU's clock rises, is left out."""
    found = {side: [] for side in sides}
    for _ in range(turns + 1):
        for side, run in sides.items():
            found[side].append(run())
    return {side: rates[1:] for side, rates in found.items()}


def row(name, batch_size, precision, found, failed):
    own = found["moa-tf"]
    cells = [f"{name}, {batch_size}", precision, f"{statistics.median(own):,.0f}"]
    for side in PEERS.values():
        if side in found:
            ratios = [a / b for a, b in zip(own, found[side], strict=True)]
            cells += [
                f"{statistics.median(found[side]):,.0f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        else:
            cells += [failed.get(side, "not run"), ""]
    return f"| {' | '.join(cells)} |"


def measure(options):
    results = []
    for name in options.models:
        for precision in options.precisions:
            batch_size, sides, failed = prepare(name, precision, options)
            if options.wait:
                print("ready", flush=True)
                sys.stdin.readline()
            found = race(sides, options.turns)
            print(row(name, batch_size, precision, found, failed), flush=True)
            results.append({"model": name, "precision": precision, "samples_per_s": found, "failed": failed})
            if options.json:
                options.json.write_text(json.dumps(results, indent=2))


def side_by_side(options):
    """Each case in a process of its own, that compiles at once and measures when it is told to."""
    common = [f"--turns={options.turns}", f"--steps={options.steps}", "--peers", *options.peers, "--wait"]
    if options.batch_size:
        common.append(f"--batch-size={options.batch_size}")
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--models", name, "--precisions", precision, *common],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in options.models
        for precision in options.precisions
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        print(process.communicate("\n")[0], end="", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--precisions", nargs="+", choices=MATMUL, default=list(MATMUL))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100, help="of a turn")
    parser.add_argument("--batch-size", type=int, help="instead of each model's own")
    parser.add_argument("--side-by-side", action="store_true", help="compile all cases at once; no --json")
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.wait:
        import jax

        print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")
        print(
            "| model, batch | precision | moa-tf, samples/s | PyTorch | ratio | compiled | ratio |\n|"
            + " --- |" * 7,
            flush=True,
        )
    (side_by_side if options.side_by_side else measure)(options)


if __name__ == "__main__":
    main()
