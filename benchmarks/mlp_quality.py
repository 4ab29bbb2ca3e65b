"""Quality of the MLP against PyTorch on one fold: the same rows, the same features, a recipe each.

The peer is the winners' recipe for lish-moa's "simple NN" in PyTorch: three blocks of BatchNorm, Dropout,
weight-normalised Linear 2048, leaky ReLU; Adam, weight decay 1e-5, one cycle, batch 256, smoothing .001.

    python benchmarks/mlp_quality.py lish-moa --fold 0 --epochs 10
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from held_out import HeldOutFold
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

SMOOTHING = 0.001


def peer(features: int, targets: int, dropout: list[float]) -> nn.Module:
    layers, width = [], features
    for rate in dropout[:-1]:
        layers += [
            nn.BatchNorm1d(width),
            nn.Dropout(rate),
            weight_norm(nn.Linear(width, 2048)),
            nn.LeakyReLU(),
        ]
        width = 2048
    return nn.Sequential(
        *layers, nn.BatchNorm1d(width), nn.Dropout(dropout[-1]), weight_norm(nn.Linear(width, targets))
    )


def train_peer(
    x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, epochs: int, rate: float
) -> np.ndarray:
    torch.manual_seed(0)
    net = peer(x.shape[1], y.shape[1], [0.15, 0.3, 0.25, 0.25])
    optimizer = torch.optim.Adam(net.parameters(), lr=rate, weight_decay=1e-5)
    steps = len(train) // 256
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, epochs=epochs, steps_per_epoch=steps, pct_start=0.1, div_factor=1e3
    )
    features, labels = torch.from_numpy(x), torch.from_numpy(y * (1 - SMOOTHING) + SMOOTHING / 2)
    for _ in range(epochs):
        net.train()
        order = torch.from_numpy(np.random.default_rng(0).permutation(train))
        for step in range(steps):
            rows = order[step * 256 : (step + 1) * 256]
            loss = nn.functional.binary_cross_entropy_with_logits(net(features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        return torch.sigmoid(net(features[torch.from_numpy(test)])).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--peer-rate", type=float, default=5e-3)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    settings = [f"epochs={arguments.epochs}", *arguments.set]
    fold = HeldOutFold(arguments.data, "mlp", "one-cycle", settings, arguments.fold, arguments.seed)
    began = time.perf_counter()
    score, _ = fold.train(seed=1)
    print(f"moa-tf mlp, one-cycle    {score:.5f}   {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    rows = fold.rows.train, fold.rows.judged
    predicted = train_peer(fold.x, fold.targets, *rows, arguments.epochs, arguments.peer_rate)
    seconds = time.perf_counter() - began
    print(f"PyTorch, winners' recipe {fold.log_loss(predicted):.5f}   {seconds:.0f} s")


if __name__ == "__main__":
    main()
