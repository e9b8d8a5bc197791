"""`results.jsonl`: one line an evaluation, with what is needed to repeat it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit._version import VERSION
from clipkit.evaluate.classes import ClassSet
from clipkit.evaluate.images import LabelledImages
from clipkit.locations import decoded
from clipkit.run_folder import CHECKPOINTS, RESULTS

if TYPE_CHECKING:  # reading results, to plot them, needs no torch
    from clipkit.evaluate.caption_sets import CaptionSet, Retrieved
    from clipkit.evaluate.zero_shot import ZeroShotResult


def results_path(checkpoint: Path) -> Path:
    """Where a checkpoint's results belong: in its run's directory, or beside a file that is in no run."""
    folder = checkpoint.absolute().parent
    return (folder.parent if folder.name == CHECKPOINTS else folder) / RESULTS


def zero_shot_record(
    result: "ZeroShotResult", class_set: ClassSet, images: LabelledImages, model: dict[str, Any]
) -> dict[str, Any]:
    """One line of `results.jsonl`: `model` (what was evaluated), the set, versions, date, and the figures.

    `files_sha256` (see `ZeroShotResult`), `names_sha256` and `templates_sha256` (see `ClassSet`) tell whether
    two lines are of the same pictures, classes and prompts.
    """
    from clipkit.evaluate.per_class import worst_records

    return {
        **_record("zero-shot", model),
        "set": result.name,
        "path": str(images.root.absolute()),
        "files_sha256": result.files_sha256,
        "images": result.images,
        "unreadable": list(result.unreadable),
        "partial": result.partial,
        "classes": result.classes,
        "classes_with_images": result.classes_with_images,
        "names_sha256": class_set.names_sha256,
        "templates": len(class_set.templates),
        "templates_sha256": class_set.templates_sha256,
        "chance": result.chance,
        "top1": result.top1,
        "top1_interval": list(result.top1_interval),
        "top5": result.top5,
        "mean_per_class_recall": result.mean_per_class_recall,
        "worst_classes": worst_records(result.class_scores, class_set),
    }


def retrieval_record(result: "Retrieved", data: "CaptionSet", model: dict[str, Any]) -> dict[str, Any]:
    """One line of `results.jsonl`, of retrieval: as `zero_shot_record`, with the data's fingerprint."""
    return {
        **_record("retrieval", model),
        "set": result.name,
        "path": data.path,
        "data_sha256": data.samples.fingerprint,
        "files_sha256": result.files_sha256,
        "unreadable": list(result.unreadable),
        **result.figures(),
    }


def decoded_record(value: Any) -> Any:
    """Return a record, or a part of one, as it can be written down: names of files may be no text."""
    if isinstance(value, str):
        return decoded(value)
    if isinstance(value, dict):
        return {key: decoded_record(part) for key, part in value.items()}
    return [decoded_record(part) for part in value] if isinstance(value, list) else value


def _record(kind: str, model: dict[str, Any]) -> dict[str, Any]:
    import PIL
    import torch

    return {
        "kind": kind,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "clipkit": VERSION,
        "torch": str(torch.__version__),
        "pillow": PIL.__version__,
        **model,
    }


def metric_name(set_name: str, figure: str) -> str:
    """What a figure of a set is called in a run's metrics, as in OpenCLIP: `imagenet-zeroshot-val-top1`."""
    return f"{set_name}-zeroshot-val-{figure}"
