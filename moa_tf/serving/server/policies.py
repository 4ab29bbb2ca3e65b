"""Which models and versions are served: from the command line, or from TensorFlow Serving's `ModelServerConfig`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moa_tf.errors import InputError
from moa_tf.serving.server.errors import Code, Refused, invalid
from moa_tf.serving.versions import versions


@dataclass(frozen=True)
class Policy:
    """Which versions of a model are to be in service.

    Attributes:
        root: the directory of its versions.
        latest: how many of the highest numbers; 0 for all.
        specific: these alone, whatever `latest` says.
        labels: name -> version.
    """

    root: Path
    latest: int = 1
    specific: tuple[int, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)

    def wanted(self) -> dict[int, Path]:
        """Number -> directory of those that are there."""
        there = {
            number: path for number, path in versions(self.root).items() if (path / "saved_model.pb").exists()
        }
        if self.specific:
            return {number: there[number] for number in self.specific if number in there}
        return {number: there[number] for number in sorted(there)[-self.latest :]}

    def unserved_labels(self) -> dict[str, int]:
        """Labels of versions that are not to be in service, or not there."""
        there = self.wanted()
        return {label: number for label, number in self.labels.items() if number not in there}


def find_models(root: Path) -> dict[str, Path]:
    """Name -> directory of versions: `root` itself if it holds versions, else each directory in it that does.

    Raises:
        InputError: there is none.
    """
    if versions(root):
        return {root.resolve().name: root}
    below = sorted(root.iterdir()) if root.is_dir() else []
    found = {path.name: path for path in below if versions(path)}
    if not found:
        raise InputError(f"{root}: expected numbered versions of a model, or directories of them")
    strange = [name for name in found if set(name) & set(":/")]
    if strange:
        raise InputError(f"{root}: the name of a model cannot hold ':', which {strange[0]} does")
    return found


def read_config(path: Path) -> Any:
    """A `ModelServerConfig` in the text format, as `--model_config_file` of TensorFlow Serving takes it.

    Raises:
        InputError: none.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), ModelServerConfig())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise InputError(f"{path}: expected a ModelServerConfig in the text format ({error})") from None


def policies_of(config: Any, base: Path = Path(), within: Sequence[Path] | None = None) -> dict[str, Policy]:
    """Name -> policy.

    Args:
        config: a `ModelServerConfig`.
        base: what a relative `base_path` is relative to.
        within: the directories that a `base_path` must lie in; None for any.

    Raises:
        Refused: a kind of configuration that is not known, no name or path, or a path elsewhere.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid("expected a model_config_list")
    policies: dict[str, Policy] = {}
    for model in config.model_config_list.config:
        if not model.name or not model.base_path or set(model.name) & set("/:"):
            raise invalid("expected of each model a base_path, and a name without / and :")
        if model.name in policies:
            raise invalid(f"Illegal to list model {model.name} multiple times in config list")
        if model.model_platform not in ("", "tensorflow"):
            raise invalid(f"{model.name}: expected the platform tensorflow, got {model.model_platform}")
        root = base / model.base_path
        if within is not None:
            inside = any(root.resolve() == top or top in root.resolve().parents for top in within)
            if not inside:
                raise Refused(
                    Code.PERMISSION_DENIED, f"{model.name}: base_path lies outside of what this server serves"
                )
        policy, latest, specific = model.model_version_policy, 1, ()
        kind = policy.WhichOneof("policy_choice")
        if kind == "latest":
            latest = max(1, policy.latest.num_versions)
        elif kind == "all":
            latest = 0
        elif kind == "specific":
            specific = tuple(policy.specific.versions)
        policies[model.name] = Policy(root, latest, specific, dict(model.version_labels))
    return policies


def parse_versions(text: str) -> tuple[int, tuple[int, ...]]:
    """`latest:N`, `all`, or numbers with commas between, as (latest, specific).

    Raises:
        InputError: something else.
    """
    if text == "all":
        return 0, ()
    if match := re.fullmatch(r"latest(?::([1-9]\d{0,3}))?", text):
        return int(match[1] or 1), ()
    if re.fullmatch(r"\d{1,18}(,\d{1,18})*", text):
        return 1, tuple(dict.fromkeys(int(number) for number in text.split(",")))
    raise InputError(f"--versions {text}: expected latest:N, all, or numbers such as 3,4")


def parse_labels(texts: Sequence[str]) -> dict[str, int]:
    """`NAME=VERSION`s.

    Raises:
        InputError: something else.
    """
    labels = {}
    for text in texts:
        match = re.fullmatch(r"([^/:=\s]+)=(\d{1,18})", text)
        if not match:
            raise InputError(f"--label {text}: expected NAME=VERSION, such as stable=3")
        labels[match[1]] = int(match[2])
    return labels


def check_labels(policies: dict[str, Policy]) -> None:
    """Raises `InputError` where a label is of a version that is not served."""
    for name, policy in policies.items():
        for label, number in policy.unserved_labels().items():
            there = ", ".join(map(str, policy.wanted())) or "none"
            raise InputError(
                f"{name}: label {label} is of version {number}, which is not served ({there} of {policy.root})"
            )
