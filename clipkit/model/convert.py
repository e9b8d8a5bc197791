"""Writing other projects' checkpoints, each reopened by its own rules and compared before it is kept.

The four formats here use OpenAI's parameter names, so no mapping table stands between them; a format with
names of its own brings one with it.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from clipkit.atomic import replaced, write_json
from clipkit.errors import CheckpointError, ConfigError
from clipkit.model.checkpoint import OPEN_CLIP_KEY, Checkpoint, checkpoint_content, load_model, write_pytorch
from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig
from clipkit.model.formats import open_clip, openai
from clipkit.model.formats.archive import SAFETENSORS_SUFFIX, is_model_file, read_safetensors
from clipkit.model.formats.names import FORMAT_NAMES
from clipkit.model.weights import CONFIG_KEY, Weights, assemble, read_weights, stored_config

FEATURE_TOLERANCE = 1e-5
LOGIT_TOLERANCE = 1e-4
PROBES = 3


@dataclass(frozen=True)
class ConvertResult:
    """What was written: `max_error` is the largest difference of features (unit length) to the source's.

    `open_with` is the Python call that opens the result; `note` says what the target does to the weights by
    itself.
    """

    format: str
    path: Path
    parameters: int
    max_error: float
    open_with: str
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {**asdict(self), "path": str(self.path)}

    def lines(self) -> str:
        """Return what was written, what the comparison found, and how to open it."""
        found = f"reopened, its features differ from the source's by at most {self.max_error:.0e}"
        wrote = f"{self.path}: {self.parameters:,} parameters in the format {self.format}; {found}"
        return "\n".join(filter(None, [wrote, self.note, f"open it with {self.open_with}"]))


@dataclass(frozen=True)
class _Format:
    write: Callable[[Clip, Path, Weights], None]
    reopen: Callable[[Path, ClipConfig], list[nn.Module]]
    open_with: Callable[[Path, ClipConfig], str]
    refusal: Callable[[Clip], str | None] = lambda clip: None
    note: Callable[[Clip], str] = lambda clip: ""


def convert(source: Path, target: Path, to: str, model: str | None = None) -> ConvertResult:
    """Write the model in `source` to `target` in the format `to`: openai, open-clip, safetensors or clipkit.

    `model` names the model of a source that does not say its own. Raises CheckpointError for a source that
    cannot be read, for what the target cannot express, and when the reopened result's features differ by more
    than 1e-5 (logits: 1e-4); then no file is left. Raises ConfigError for a target that does not fit the
    format, or that is the source itself or anything else than a model file.
    """
    chosen = FORMATS.get(to)
    if chosen is None:
        raise ConfigError(f"there is no format {to!r} to convert to; there are {', '.join(FORMAT_NAMES)}")
    if (target.suffix == SAFETENSORS_SUFFIX) != (to == "safetensors"):
        raise ConfigError(f"{target}: safetensors files, and only those, are called NAME{SAFETENSORS_SUFFIX}")
    if source.exists() and target.exists() and target.samefile(source):
        raise ConfigError(f"{target} is the file to convert itself: give the result a name of its own")
    if target.exists() and not is_model_file(target):
        raise ConfigError(
            f"{target}: expected a new name, or a model file to replace, found something else there; "
            "give the result another name"
        )
    if not target.parent.is_dir():
        raise ConfigError(f"{target} cannot be written: there is no folder {target.parent}")
    weights = read_weights(source, model)
    clip = assemble(weights, source)
    reason = chosen.refusal(clip)
    if reason:
        raise CheckpointError(f"{source} cannot be written in the format {to}: {reason}")
    with replaced(target) as temporary:
        chosen.write(clip, temporary, weights)
        error = _checked_error(clip, chosen.reopen(temporary, clip.config), target)
        open_with = chosen.open_with(target, clip.config)
    parameters = sum(parameter.numel() for parameter in clip.parameters())
    return ConvertResult(to, target, parameters, error, open_with, chosen.note(clip))


@torch.inference_mode()
def feature_error(clip: nn.Module, other: nn.Module, config: ClipConfig) -> tuple[float, float]:
    """Largest differences of unit-length features and of logits between two models on fixed inputs."""
    size, text = config.image_size, config.text
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(PROBES, 3, size, size, generator=generator)
    tokens = torch.randint(1, text.vocab_size - 2, (PROBES, text.context_length), generator=generator)
    for row, end in enumerate((text.context_length - 1, 2, text.context_length // 2)):
        tokens[row, end] = text.vocab_size - 1
        tokens[row, end + 1 :] = 0
    (images_1, texts_1, logits_1), (images_2, texts_2, logits_2) = (
        _outputs(model, images, tokens) for model in (clip, other)
    )
    features = max(_difference(images_1, images_2), _difference(texts_1, texts_2), key=_nan_last)
    return features, _difference(logits_1, logits_2)


def _outputs(model: nn.Module, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    towers = cast(Any, model)
    logits: Tensor = towers(images, tokens)[0]
    image_features: Tensor = functional.normalize(towers.encode_image(images), dim=-1)
    text_features: Tensor = functional.normalize(towers.encode_text(tokens), dim=-1)
    return image_features, text_features, logits


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _nan_last(value: float) -> tuple[bool, float]:
    return value != value, value


def _checked_error(clip: Clip, reopened: list[nn.Module], target: Path) -> float:
    errors = [feature_error(clip, other, clip.config) for other in reopened]
    for features, logits in errors:
        # Written so that a difference that is not a number fails too.
        if not (features <= FEATURE_TOLERANCE and logits <= LOGIT_TOLERANCE):
            found = f"features differ by {features:.1e} and logits by {logits:.1e}"
            limits = f"at most {FEATURE_TOLERANCE:.0e} and {LOGIT_TOLERANCE:.0e} are expected"
            raise CheckpointError(f"{target} was not written: reopened, its {found}; {limits}")
    return max(features for features, _ in errors)


def _write_clipkit(clip: Clip, path: Path, weights: Weights) -> None:
    dumped = clip.config.model_dump(mode="json")
    checkpoint = Checkpoint(weights.epoch, weights.name, dict(clip.state_dict()), dumped)
    write_pytorch(path, checkpoint_content(checkpoint, path))


def _write_safetensors(clip: Clip, path: Path, weights: Weights) -> None:
    metadata = {"format": "pt", CONFIG_KEY: json.dumps(clip.config.model_dump(mode="json"))}
    if clip.config.open_clip_name:
        metadata[OPEN_CLIP_KEY] = clip.config.open_clip_name
    path.write_bytes(safetensors.torch.save(dict(clip.state_dict()), metadata))


def _reopen_safetensors(path: Path, config: ClipConfig) -> list[nn.Module]:
    tensors, metadata = read_safetensors(path)
    stored = stored_config(json.loads(metadata[CONFIG_KEY]), path)
    return [assemble(Weights(stored, tensors), path)]


def _open_clip_call(path: Path, config: ClipConfig) -> str:
    name = config.open_clip_name
    if name is not None:
        return f'open_clip.create_model("{name}", pretrained="{path}")'
    beside = path.with_name(f"clipkit-{path.stem}.json")
    write_json(beside, open_clip.to_json(config))
    call = f'open_clip.create_model("{beside.stem}", pretrained="{path}")'
    return f'open_clip.add_model_config("{beside}"); {call}'


def _openai_note(clip: Clip) -> str:
    error, _ = feature_error(clip, openai.rounded(clip), clip.config)
    return f"clip.load(jit=False) itself rounds weights to float16: features then differ by up to {error:.0e}"


FORMATS: dict[str, _Format] = {
    "openai": _Format(
        write=lambda clip, path, weights: openai.write(clip, path),
        reopen=lambda path, config: openai.reopen(path, config.name),
        open_with=lambda path, config: f'clip.load("{path}")',
        refusal=openai.refusal,
        note=_openai_note,
    ),
    "open-clip": _Format(
        write=lambda clip, path, weights: open_clip.write(clip, path, weights.epoch, weights.name),
        reopen=lambda path, config: [open_clip.reopen(path, config)],
        open_with=_open_clip_call,
    ),
    "safetensors": _Format(
        write=_write_safetensors,
        reopen=_reopen_safetensors,
        open_with=lambda path, config: f'clipkit.load("{path}")',
    ),
    "clipkit": _Format(
        write=_write_clipkit,
        reopen=lambda path, config: [load_model(path)],
        open_with=lambda path, config: f'clipkit.load("{path}")',
    ),
}
