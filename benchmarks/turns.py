"""Contestants that take turns on the same cores, each in a process of its own.

While one works the others wait for a line on stdin, so that no framework's spinning threads disturb another.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

THREADS = min(2, os.cpu_count())


def take_turns(seconds=None):
    """In a contestant: reports how long its last turn took, waits for the next, and returns when that began."""
    print(json.dumps({"seconds": seconds}), flush=True)
    if not sys.stdin.readline():
        os._exit(0)
    return time.perf_counter()


def pin(threads=THREADS):
    """Keeps this process and its children to as many cores as they have threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def all_rows(targets):
    """The project's fold that trains on every row of `targets` and holds none out."""
    import numpy as np

    from moa_tf.data.prior import prior
    from moa_tf.training.fold import ALL, Fold

    rows = np.arange(len(targets))
    return Fold(ALL, rows, held_out=rows[:0], judged=rows[:0], prior=prior(targets), unit=rows)


def random_rows(rows, features, targets):
    """[rows, features] of normal values, and [rows, targets] of rare labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, features)).astype("float32")
    return values, (rng.random((rows, targets)) < 0.004).astype("float32")


def train_in_turns(family, hyperparameters, tables, targets, precision, threads=THREADS):
    """In a contestant: the project's own training on every row, an epoch a turn.

    Args:
        family: of the network.
        hyperparameters: its, of more epochs than turns.
        tables: name -> [N, …], the network's inputs.
        targets: [N, T].
        precision: Keras dtype policy.
        threads: of an operation.
    """
    import keras
    import tensorflow as tf

    from moa_tf.training.network import NetworkData, train_network
    from moa_tf.training.reporter import Reporter
    from moa_tf.training.strategy import make_placement

    class Turns(Reporter):
        def member(self, label, epochs, steps):
            self.began = take_turns()

        def epoch(self, epoch, figures):
            self.began = take_turns(time.perf_counter() - self.began)

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    inputs = {name: keras.Input(values.shape[1:], name=name) for name, values in tables.items()}
    data = NetworkData(keras.Model(inputs, inputs), tables, targets, all_rows(targets))
    train_network(family, data, hyperparameters, 0, make_placement("none"), precision, reporter=Turns())


def train_torch_in_turns(network, loss_of, rows, batch_size, precision, epochs, clip_norm=None, **adamw):
    """In a contestant: PyTorch's side of `train_in_turns`, fused AdamW by one cycle.

    Args:
        network: a module.
        loss_of: (float32 logits, labels) -> loss.
        rows: features and targets, as of `random_rows`.
        batch_size: of a step.
        precision: `mixed_bfloat16` for autocast.
        epochs: of the schedule.
        clip_norm: of all gradients; None leaves them as they are.
        **adamw: `lr` and `weight_decay`.
    """
    import torch

    features, targets = map(torch.from_numpy, rows)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True, **adamw)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        adamw["lr"],
        total_steps=epochs * (len(features) // batch_size),
        pct_start=0.1,
        div_factor=1e3,
        cycle_momentum=False,
    )
    began = take_turns()
    while True:
        total = torch.zeros(())
        for batch in torch.randperm(len(features)).split(batch_size):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed_bfloat16"):
                logits = network(features[batch])
            loss = loss_of(logits.float(), targets[batch])
            loss.backward()
            if clip_norm:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        total.item()
        began = take_turns(time.perf_counter() - began)


class Contestant:
    """A process that calls `take_turns` before each piece of work."""

    def __init__(self, *command, threads=THREADS):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "2"}
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.process.stdout.readline()

    def turn(self):
        """Seconds of one piece of work."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["seconds"]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def compare(label, ours, theirs, peer, turns, samples, ours_name="moa-tf"):
    """Prints the medians of samples per second and of the ratios of neighbouring turns; the first is left out.

    Args:
        label: what is compared.
        ours, theirs: contestants; they end here.
        peer: the peer's name.
        turns: how many of each count.
        samples: in one turn.
        ours_name: of what is compared with it.
    """
    rates = ([], [])
    for turn in range(turns + 1):
        for side in (0, 1) if turn % 2 else (1, 0):
            time.sleep(0.3)  # threads of the other spin for a while after their last work
            rates[side].append(samples / (ours, theirs)[side].turn())
    ours.end()
    theirs.end()
    kept = [values[1:] for values in rates]
    ratios = [mine / other for mine, other in zip(*kept, strict=True)]
    project, other = map(statistics.median, kept)
    print(
        f"{label}: {ours_name} {project:,.0f} samples/s, {peer} {other:,.0f} samples/s, "
        f"median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )
