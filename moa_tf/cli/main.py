"""The `moa-tf` command. A subcommand's module, and TensorFlow with it, is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from contextlib import redirect_stderr, redirect_stdout

import click

import moa_tf
from moa_tf.atomic import writing
from moa_tf.cli.ending import Ended, ending_in_order
from moa_tf.cli.output import Patient
from moa_tf.errors import InputError

COMMANDS = {
    "data": "Simulate, check or convert tables of signatures.",
    "train": "Cross-validate a model and export it.",
    "compare": "Several models on the same folds, side by side.",
    "tune": "Search for a model's hyperparameters.",
    "predict": "Probabilities for a table of signatures, from an exported model.",
    "rank": "A ranked list of mechanisms for each drug, with what it is worth.",
    "evaluate": "Score a table of predictions against a table of targets.",
    "blend": "Blend finished runs into one.",
    "export": "Export a finished run as a SavedModel.",
    "explore": "What a table of signatures holds, as a page.",
    "explain": "Which features speak for which mechanism.",
    "serve": "Serve exported models, with a page to try them.",
    "pipeline": "From a table to a model in service, by TFX.",
}


class LazyGroup(click.Group):
    """Lists its commands without importing them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"moa_tf.cli.{name}"), name)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(moa_tf.__version__, prog_name="moa-tf")
def cli() -> None:
    """Mechanisms of action from gene expression and cell viability.

    \b
    Example: train on the simulated sample, then predict with the exported model
      moa-tf data simulate sample
      moa-tf train --data sample --strategy mirrored
      moa-tf predict saved_models/mlp sample/test_features.csv predictions.csv
    """


def main() -> None:
    """Runs the command line.

    Exit status: 0, 1 on an error of the program, 2 on a wrong call or bad input, and 128 + the signal's number
    when it is told to end, as a shell has it.
    """
    out, err = Patient(sys.stdout), Patient(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            with ending_in_order(), writing():
                status = cli(standalone_mode=False)
                out.flush()  # not at the interpreter's end, where nothing catches its errors
            sys.exit(status)
        except Ended as error:
            print(f"ended by {error.signal}", file=sys.stderr)
            raise
        except InputError as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            sys.exit(2)
        except click.ClickException as error:
            error.show()
            sys.exit(2)
        except (click.Abort, KeyboardInterrupt):
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        finally:
            try:
                out.flush()
            except OSError:
                out.drop()
