"""Writing other projects' checkpoints, each reopened by its own rules and compared before it is kept."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipkit.errors import CheckpointError, ConfigError
from clipkit.model.clip import Clip
from clipkit.model.comparison import FEATURE_TOLERANCE, LOGIT_TOLERANCE, Reference
from clipkit.model.formats import hugging_face
from clipkit.model.formats.archive import SAFETENSORS_SUFFIX, is_model_file
from clipkit.model.formats.names import FORMAT_NAMES
from clipkit.model.formats.targets import TARGETS, Origin, Target
from clipkit.model.released import model_file
from clipkit.model.weights import assemble, read_weights

_HEAD_NOTE = (
    "the source's fine-tuned head is left out: these are both of its towers, the image tower fine-tuned"
)


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


def convert(source: Path, target: Path, to: str, model: str | None = None) -> ConvertResult:
    """Write the model in `source` to `target` in the format `to`, one of `FORMAT_NAMES`.

    `source` may be the name of one of OpenAI's released models. `model` names that of a file that does not
    say its own. Raises CheckpointError for a source that cannot be read, for what the target cannot express,
    and when the reopened result's features differ by more than 1e-5 (logits: 1e-4); then no file or folder is
    left, and one that was there stays. Raises ConfigError for a target that does not fit the format, or that
    is the source itself, or of its folder, or anything else than a model.
    """
    chosen = TARGETS.get(to)
    if chosen is None:
        raise ConfigError(f"there is no format {to!r} to convert to; there are {', '.join(FORMAT_NAMES)}")
    if (target.suffix == SAFETENSORS_SUFFIX) != (to == "safetensors"):
        raise ConfigError(f"{target}: safetensors files, and only those, are called NAME{SAFETENSORS_SUFFIX}")
    _check_place(source, target, chosen)  # before a gigabyte is fetched
    source = model_file(source)
    _check_place(source, target, chosen)
    clip, origin = _read(source, model)
    reason = chosen.refusal(clip)
    if reason:
        raise CheckpointError(f"{source} cannot be written in the format {to}: {reason}")
    reference = Reference(clip)
    with chosen.replaced(target) as temporary:
        chosen.write(clip, temporary, origin)
        error = _checked_error(reference, chosen, temporary, target)
        open_with = chosen.open_with(target, clip.config)
    parameters = sum(parameter.numel() for parameter in clip.parameters())
    note = "\n".join(filter(None, [chosen.note(reference), _HEAD_NOTE if origin.has_head else ""]))
    return ConvertResult(to, target, parameters, error, open_with, note)


def _read(source: Path, model: str | None) -> tuple[Clip, Origin]:
    weights = read_weights(source, model)
    return assemble(weights, source), Origin(weights.epoch, weights.name, weights.has_head)


def _check_place(source: Path, target: Path, chosen: Target) -> None:
    kind = "folder" if chosen.is_folder else "file"
    if source.exists() and target.exists() and target.samefile(source):
        raise ConfigError(f"{target} is the {kind} to convert itself: give the result a name of its own")
    if _would_be_read(source, target):
        raise ConfigError(f"{target} is of the folder to convert: give the result another place")
    found = _found_in_folder(source, target) if chosen.is_folder else _found_in_file(target)
    if found is not None:
        raise ConfigError(
            f"{target}: expected a new name, or a model {kind} to replace, found {found}; "
            "give the result another name"
        )
    if not target.parent.is_dir():
        raise ConfigError(f"{target} cannot be written: there is no folder {target.parent}")


def _would_be_read(source: Path, target: Path) -> bool:
    of_model = target.exists() or target.name in hugging_face.WEIGHTS_FILES
    return of_model and source.is_dir() and target.resolve().parent == source.resolve()


def _found_in_file(target: Path) -> str | None:
    return "something else there" if target.exists() and not is_model_file(target) else None


def _found_in_folder(source: Path, target: Path) -> str | None:
    if not target.is_dir():
        return "something else there" if target.exists() else None
    if strangers := hugging_face.strangers(target):
        return f"{strangers[0]} in it"
    if any(target.iterdir()) and not hugging_face.is_folder(target):
        return "no whole model in it"
    return "the model to convert in it" if target.resolve() in source.resolve().parents else None


def _checked_error(reference: Reference, chosen: Target, written: Path, target: Path) -> float:
    largest = 0.0
    for other in chosen.reopen(written, reference.clip.config):
        features, logits = reference.difference(other)
        # Written so that a difference that is not a number fails too.
        if not (features <= FEATURE_TOLERANCE and logits <= LOGIT_TOLERANCE):
            found = f"features differ by {features:.1e} and logits by {logits:.1e}"
            limits = f"at most {FEATURE_TOLERANCE:.0e} and {LOGIT_TOLERANCE:.0e} are expected"
            raise CheckpointError(f"{target} was not written: reopened, its {found}; {limits}")
        largest = max(largest, features)
    return largest
