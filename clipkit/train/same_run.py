"""Whether a run can be continued by these settings: the same numbers would have followed from them."""

from pathlib import Path
from typing import Any

from clipkit.differences import differences
from clipkit.errors import ClipkitError, TrainError
from clipkit.train.config import TrainConfig
from clipkit.train.length import RunLength, run_length, warmup_steps

FREE_SETTINGS = frozenset(
    {
        "workers",
        "processes",
        "timeout",
        "max_bad",
        "resume",
        "save_every",
        "save_minutes",
        "evaluate_epochs",
        "evaluate_samples",
        "log_every",
        "keep",
        "recipe",  # its settings stand for it
        "streams",  # data.streams, what it comes to, stands for it
        "wandb",
        "wandb_project",
        "data.directory",
        "pretrained",
        "grad_checkpointing",
    }
)
"""May differ between the sittings of one run: what it computes stays the same."""
_LENGTH = frozenset({"epochs", "samples_seen", "warmup"})


def check_same_run(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise TrainError with the differences if the run at `path`, with settings `stored`, is another one.

    With a constant learning rate it may become longer or shorter: no step so far would have been another one.
    A setting that an older version did not know has its default.
    """
    stored = {name: field.default for name, field in TrainConfig.model_fields.items()} | stored
    different = differences(stored, wanted, apart_from=FREE_SETTINGS)
    if any(each.startswith("data.fingerprint ") for each in different):  # which says nothing to people
        different = differences(stored, wanted, apart_from=FREE_SETTINGS - {"data.directory"})
    remedy = "give the same settings, or another --name"
    if different and all(each.split()[0] in _LENGTH for each in different):
        if not stored["schedule"] == wanted["schedule"] == "constant":
            remedy += "; to train on from its weights, give another --name and its checkpoint as --pretrained"
        elif (warmup := _warmup(stored)) is not None:
            if warmup == _warmup(wanted):
                return
            remedy += f"; with --warmup {warmup}, as it has been, it can be of any length"
    if different:
        raise TrainError(f"{path}: cannot be continued, since {'; '.join(different)}: {remedy}")


def check_not_beyond(path: Path, step: int, length: RunLength) -> None:
    """Raise TrainError if the checkpoint at `path`, after `step` steps, is beyond the end of the run."""
    if step > length.steps:
        raise TrainError(
            f"{path}: expected a checkpoint within the run's {length.steps:,} steps, found one after "
            f"{step:,}: give more --epochs or --samples-seen, or another --name"
        )


def _warmup(settings: dict[str, Any]) -> int | None:
    """The steps of warm-up that settings stand for, None if they cannot be read."""
    try:
        config = TrainConfig.model_validate({name: settings[name] for name in TrainConfig.model_fields})
        return warmup_steps(config, run_length(config, settings["data"]["samples"]).steps)
    except (ClipkitError, KeyError, TypeError, ValueError):
        return None
