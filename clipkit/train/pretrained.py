"""What a run begins with: weights drawn by its seed, or those of a model file that its settings name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from clipkit.errors import CheckpointError, ConfigError
from clipkit.model.clip import Clip, build
from clipkit.model.config import ClipConfig
from clipkit.model.identity import model_sha256, resolved
from clipkit.model.released import published_sha256
from clipkit.model.weights import assemble, read_weights
from clipkit.train.config import TrainConfig


@dataclass(frozen=True)
class Start:
    """The model that a run begins with: the file or name that was given, and the SHA-256 it is known by."""

    source: str | None = None
    sha256: str | None = None

    def as_settings(self) -> dict[str, Any]:
        """Return what of it is among the run's settings: the file may lie elsewhere, and be no other."""
        return {"pretrained": self.source, "pretrained_sha256": self.sha256}


def find_start(config: TrainConfig, begun: Mapping[str, Any] | None) -> Start:
    """Return the start that `config` names; `begun` are the settings of a run that has a checkpoint already.

    Such a run needs its file no more: where none is named, its start is the one that it began with.
    Raises CheckpointError for a file that cannot be read, ConfigError for a tower of random weights to lock.
    """
    if config.pretrained is None and begun is not None:
        return Start(begun.get("pretrained"), begun.get("pretrained_sha256"))
    if config.pretrained is None:
        if config.lock_image or config.lock_text:
            which = "--lock-image" if config.lock_image else "--lock-text"
            raise ConfigError(
                f"{which} would leave random weights as they are: name a model with --pretrained"
            )
        return Start()
    try:
        sha256 = published_sha256(config.pretrained) or model_sha256(resolved(config.pretrained))
    except CheckpointError as error:
        if begun is None:
            raise
        raise CheckpointError(f"{error}; this run has begun, and goes on without --pretrained") from error
    return Start(config.pretrained, sha256)


def initial_model(config: TrainConfig, model_config: ClipConfig, start: Start) -> Clip:
    """Make the model that the run begins with, in training mode, on the CPU in float32.

    `config.model` is the name as it was given: it says the activation of a file that does not. Raises
    CheckpointError, with the differences, for a file of another model.
    """
    if start.source is None:
        return build(model_config, seed=config.seed)
    path = resolved(start.source)
    weights = read_weights(path, config.model, remedy="give the --model that it is, or another file")
    model = assemble(replace(weights, config=model_config), path)
    if model_sha256(path) != start.sha256:
        raise CheckpointError(f"{path} was replaced while it was read: run the same command again")
    return model.train()
