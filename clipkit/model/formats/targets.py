"""What `clipkit convert --to` can write: each format's writer, way of opening, and refusals."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import nn

from clipkit.atomic import replaced, replaced_folder, write_json
from clipkit.errors import ConfigError
from clipkit.json_values import parsed_json
from clipkit.model.checkpoint import OPEN_CLIP_KEY, Checkpoint, checkpoint_content, load_model, write_pytorch
from clipkit.model.clip import Clip
from clipkit.model.comparison import Reference
from clipkit.model.config import ClipConfig
from clipkit.model.formats import hugging_face, open_clip, openai
from clipkit.model.formats.archive import CONFIG_KEY, read_safetensors
from clipkit.model.weights import Weights, assemble, stored_config


@dataclass(frozen=True)
class Origin:
    """What a checkpoint says about the run that it comes from, and whether a fine-tuned head is beside it."""

    epoch: int
    name: str
    has_head: bool = False


@dataclass(frozen=True)
class Target:
    """One format: `reopen` yields the result as each of the target's ways of opening it gives it.

    `refusal` is the reason why a model cannot be expressed; `note` what the target does by itself.
    """

    write: Callable[[Clip, Path, Origin], None]
    reopen: Callable[[Path, ClipConfig], Iterable[nn.Module]]
    open_with: Callable[[Path, ClipConfig], str]
    refusal: Callable[[Clip], str | None] = lambda clip: None
    note: Callable[[Reference], str] = lambda reference: ""
    replaced: Callable[[Path], AbstractContextManager[Path]] = replaced

    @property
    def is_folder(self) -> bool:
        """Whether the result is a folder instead of a file."""
        return self.replaced is replaced_folder


def _write_clipkit(clip: Clip, path: Path, origin: Origin) -> None:
    dumped = clip.config.model_dump(mode="json")
    checkpoint = Checkpoint(origin.epoch, origin.name, dict(clip.state_dict()), dumped)
    write_pytorch(path, checkpoint_content(checkpoint, path))


def _write_safetensors(clip: Clip, path: Path, origin: Origin) -> None:
    metadata = {"format": "pt", CONFIG_KEY: json.dumps(clip.config.model_dump(mode="json"))}
    if clip.config.open_clip_name:
        metadata[OPEN_CLIP_KEY] = clip.config.open_clip_name
    path.write_bytes(safetensors.torch.save(dict(clip.state_dict()), metadata))


def _reopen_safetensors(path: Path, config: ClipConfig) -> Iterator[nn.Module]:
    tensors, metadata = read_safetensors(path)
    stored = stored_config(parsed_json(metadata[CONFIG_KEY]), path)
    yield assemble(Weights(stored, tensors), path)


def _open_clip_call(path: Path, config: ClipConfig) -> str:
    name = config.open_clip_name
    if name is not None:
        return f'open_clip.create_model("{name}", pretrained={_quoted(path)})'
    beside = path.with_name(f"clipkit-{path.stem}.json")
    if beside.exists() and not open_clip.is_json_file(beside):
        raise ConfigError(
            f"{beside}: expected no such file, or the configuration of an OpenCLIP model to replace, found "
            "something else there; give the result another name"
        )
    write_json(beside, open_clip.to_json(config))
    call = f"open_clip.create_model({_quoted(beside.stem)}, pretrained={_quoted(path)})"
    return f"open_clip.add_model_config({_quoted(beside)}); {call}"


def _quoted(name: str | Path) -> str:
    return json.dumps(str(name), ensure_ascii=False)  # JSON's strings are Python's


def _openai_note(reference: Reference) -> str:
    error, _ = reference.difference(openai.rounded(reference.clip))
    return f"clip.load(jit=False) itself rounds weights to float16: features then differ by up to {error:.0e}"


_HUGGING_FACE_NOTE = (
    "CLIPProcessor opens the same folder; its tokenizer does not mend text (curly quotes, HTML entities) as "
    "OpenAI's does"
)

TARGETS: dict[str, Target] = {
    "openai": Target(
        write=lambda clip, path, origin: openai.write(clip, path),
        reopen=lambda path, config: openai.reopen(path, config.name),
        open_with=lambda path, config: f"clip.load({_quoted(path)})",
        refusal=openai.refusal,
        note=_openai_note,
    ),
    "open-clip": Target(
        write=lambda clip, path, origin: open_clip.write(clip, path, origin.epoch, origin.name),
        reopen=lambda path, config: [open_clip.reopen(path, config)],
        open_with=_open_clip_call,
    ),
    "hf": Target(
        write=lambda clip, path, origin: hugging_face.write(clip, path),
        reopen=lambda path, config: [assemble(hugging_face.read(path), path)],
        open_with=lambda path, config: f"transformers.CLIPModel.from_pretrained({_quoted(path)})",
        refusal=hugging_face.refusal,
        note=lambda reference: _HUGGING_FACE_NOTE,
        replaced=replaced_folder,
    ),
    "safetensors": Target(
        write=_write_safetensors,
        reopen=_reopen_safetensors,
        open_with=lambda path, config: f"clipkit.load({_quoted(path)})",
    ),
    "clipkit": Target(
        write=_write_clipkit,
        reopen=lambda path, config: [load_model(path)],
        open_with=lambda path, config: f"clipkit.load({_quoted(path)})",
    ),
}
