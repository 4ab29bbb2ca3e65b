"""What the commands' arguments have in common: paths on this machine's disks, `--json` and `--missing`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from moa_tf.config import LARGEST_SEED, PRECISIONS
from moa_tf.data.schema import SPLITS
from moa_tf.data.storage import CHOICES
from moa_tf.errors import InputError
from moa_tf.paths import local_path
from moa_tf.training.backends import BACKENDS
from moa_tf.training.strategy import STRATEGIES


class LocalPath(click.ParamType):
    """A path on this machine's disks, read or written; what would become a folder of an odd name is refused.

    Args:
        exported: it is the root of exported models, whose path TensorFlow takes for a pattern as well.

    Raises:
        InputError: when converting an address (`gs://…`), a `~` that the shell has left, a blank name, bytes
            that are no text, and, with `exported`, a pattern.
    """

    name = "path"

    def __init__(self, exported: bool = False) -> None:
        self.exported = exported

    def convert(
        self, value: str | os.PathLike, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        name = (
            param.opts[0] if isinstance(param, click.Option) else param.human_readable_name if param else ""
        )
        path = local_path(name, value)
        if self.exported:
            from moa_tf.serving.versions import check_root

            check_root(path)
        return path


def json_option(command: Callable[..., None]) -> Callable[..., None]:
    """Adds `--json FILE`, given as `json_file`, to a command; before it starts, FILE is tried.

    Raises:
        InputError: FILE cannot be written, or is another file or directory of the same call.
    """

    @click.option("--json", "json_file", type=LocalPath(), help="Also write the figures here.")
    @functools.wraps(command)
    def checked(**values: Any) -> None:
        file = values["json_file"]
        if file is not None:
            from moa_tf.atomic import check_file

            others = [value for key, value in values.items() if key != "json_file"]
            for other in others:
                if isinstance(other, Path) and _is_same(file, other):
                    raise InputError(f"--json {file}: is {other} itself, expected another file")
            check_file(file)
        return command(**values)

    return checked


missing_option = click.option(
    "--missing",
    type=click.Choice(["refuse", "median"]),
    default="refuse",
    show_default=True,
    callback=lambda context, option, value: value == "median",
    help="median: genes and cell lines may be missing; the medians of each fold's training rows stand in for them.",
)
"""`--missing`, given as a bool: whether they may be."""

storage_option = click.option(
    "--storage",
    type=click.Choice(CHOICES),
    default="auto",
    show_default=True,
    help="Where tables and features are kept. disk: in files beside the run, for tables larger than memory; auto: "
    "there, where more than half of the free memory would be needed; disk-bfloat16: disk, with networks' features "
    "rounded to 8 binary digits, in half of the bytes.",
)
"""`--storage`, to be given to `load`."""

reference_option = click.option(
    "--no-reference",
    "reference",
    flag_value=False,
    default=True,
    help="Leave the names of the drugs that a connectivity holds out of the export.",
)
"""`--no-reference`, given as a bool: whether they are named."""

tensorboard_option = click.option(
    "--tensorboard",
    type=LocalPath(),
    metavar="DIR",
    help="Write each epoch's losses and learning rate here, for `tensorboard --logdir DIR`.",
)
"""`--tensorboard`."""

backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="tensorflow",
    show_default=True,
    help="What Keras trains on. jax: for TPUs, by --strategy mirrored; needs moa-tf[jax].",
)
"""`--backend`, to be given to `import_tensorflow`."""


def validation_options(command: Callable[..., None]) -> Callable[..., None]:
    """How models are validated, and where they are computed: the same for every command that trains."""
    options = (
        click.option(
            "--strategy",
            type=click.Choice(STRATEGIES),
            default="none",
            show_default=True,
            help="mirrored: all GPUs of this machine, with jax its TPU cores too. multi-worker: as TF_CONFIG says.",
        ),
        click.option("--logical-devices", type=int, help="With mirrored: replicas on the CPU, for tests."),
        click.option(
            "--split",
            metavar=f"[{'|'.join(SPLITS)}|COLUMN]",
            default="drug",
            show_default=True,
            help="What is held out. COLUMN: the groups that any further column of train_drug makes, a scaffold or a "
            "batch.",
        ),
        click.option("--folds", type=click.IntRange(2), default=5, show_default=True),
        click.option(
            "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Networks in each fold."
        ),
        click.option("--only-fold", type=click.IntRange(0), help="Train this fold alone, counted from 0."),
        missing_option,
        click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            default="float32",
            show_default=True,
            help="auto: mixed_bfloat16 where that is faster on this device, which is said.",
        ),
        click.option("--seed", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True),
    )
    for option in reversed(options):
        command = option(command)
    return command


def blend_options(command: Callable[..., None]) -> Callable[..., None]:
    """How runs are blended."""
    options = (
        click.option(
            "--space",
            type=click.Choice(["logit", "probability"]),
            default="logit",
            show_default=True,
            help="Blend: take the weighted mean of logits, or of probabilities.",
        ),
        click.option(
            "--per-target",
            is_flag=True,
            help="Blend: weights for each mechanism, shrunk towards the common ones as far as inner folds say.",
        ),
        click.option(
            "--calibrate",
            type=click.Choice(["none", "temperature", "isotonic"]),
            default="none",
            show_default=True,
            help="Blend: then calibrate the probabilities, by thirds of the mechanisms from rare to frequent.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _is_same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.is_file() and one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)
