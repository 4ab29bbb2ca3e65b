"""TFX's Trainer: the same cross-validation and export as `moa-tf train`, of the examples' split `train`."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.dsl.io import fileio
from tfx.utils import io_utils

from moa_tf.cli.progress import LiveReporter
from moa_tf.config import override
from moa_tf.models.base import get_family
from moa_tf.serving.run_export import export_run
from moa_tf.startup import ask_determinism
from pipelines.examples import Panel, read_examples


def run_fn(arguments: FnArgs) -> None:
    """Trains and exports.

    The networks are the folds' of `Validation` within the training split, so that a split `eval` is left that nothing
    has seen. There is no Transform: the model carries its preprocessing, fitted in each fold.

    Args:
        arguments: `custom_config` is what `moa_tf.cli.pipeline` makes of its options: `panel` (see `Panel`), `model`,
            `preset`, `settings` (as of `--set`), `validation` (see `Validation`), `only_fold`, `refit`, `strategy`,
            `logical_devices`, `precision`, `runs`.

    Raises:
        InputError: settings that do not fit the data or the machine.
    """
    from moa_tf.training.cross_validation import Validation, cross_validate
    from moa_tf.training.network_learner import NetworkLearner
    from moa_tf.training.run import Run
    from moa_tf.training.strategy import make_placement

    config = arguments.custom_config
    family = get_family(config["model"])
    placement = make_placement(config["strategy"], config["logical_devices"])
    ask_determinism(family.deterministic_on_gpu)
    files = [file for pattern in arguments.train_files for file in fileio.glob(pattern)]
    dataset = read_examples(files, Panel.from_dict(config["panel"]))
    preset = config["preset"] or family.choose_preset(len(dataset))
    learner = NetworkLearner(
        family, override(family.presets[preset], config["settings"]), placement, preset, config["precision"]
    )
    run = Run(_run_directory(config, dataset.fingerprint, arguments.model_run_dir))
    with LiveReporter() as reporter:
        reporter.message(f"{config['model']}, preset {preset}, {len(dataset)} signatures: {run.directory}")
        cross_validate(
            dataset,
            learner,
            Validation(**config["validation"]),
            run,
            only_fold=config["only_fold"],
            refit=config["refit"],
            resume=(run.directory / "run.json").exists(),
            reporter=reporter,
        )
    if placement.chief:
        with tempfile.TemporaryDirectory() as root:
            version = export_run(run.directory, Path(root))
            io_utils.copy_dir(str(version), arguments.serving_model_dir)


def _run_directory(config: dict[str, Any], fingerprint: str, default: str) -> Path:
    """Of the same settings and data the same, where `runs` says where: after a kill its finished folds are there."""
    if not config["runs"]:
        return Path(default)
    key = json.dumps([{**config, "runs": "", "panel": ""}, fingerprint], sort_keys=True)
    return Path(config["runs"], f"{config['model']}-{hashlib.sha256(key.encode()).hexdigest()[:12]}")
