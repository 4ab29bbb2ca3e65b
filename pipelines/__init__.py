"""Training and prediction as pipelines: TFX, Beam, Ray."""

import re

from moa_tf.errors import InputError

METADATA = "metadata.sqlite"
"""ML Metadata, in a pipeline's directory."""

LOG = "pipeline.log"
"""What TFX and Beam write, there."""


def find_input_error(error: BaseException) -> InputError | None:
    """The bad input that a component or a worker found, out of what the engine made of it; None for anything else."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return InputError(str(cause))
        cause = cause.__cause__ or cause.__context__
    # Beam wraps what its functions raise, and keeps the words of it.
    found = re.search(
        r"\b(?:InputError|RefusedTable): (.*?)(?: \[while running|\n\n|\Z)", str(error), re.DOTALL
    )
    return InputError(found.group(1).strip()) if found else None
