"""`clipkit finetune`: fine-tune a zero-shot model, measure the line between both, keep points of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipkit.errors import CheckpointError
from clipkit.evaluate.drawing import check_picture
from clipkit.evaluate.head import Head
from clipkit.evaluate.results import decoded_record, zero_shot_record
from clipkit.evaluate.run import opened_model, shown
from clipkit.evaluate.zero_shot import build_classifier
from clipkit.finetune.classifier import add_head, clip_weights, head_weights
from clipkit.finetune.config import FinetuneConfig
from clipkit.finetune.data import Data, read_data
from clipkit.finetune.line import Point, Weights, measured
from clipkit.finetune.plot import plot_line
from clipkit.finetune.training import Training, fine_tune
from clipkit.launched import refuse_several
from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from clipkit.model.clip import Clip
from clipkit.model.tokenizer import Tokenizer
from clipkit.model.weights import HEAD_KEY
from clipkit.run_folder import RESULTS
from clipkit.tables import Cell, table
from clipkit.train.distributed import open_world
from clipkit.train.run_directory import RunDirectory
from clipkit.train.state import TrainState


@dataclass(frozen=True)
class Finetuning:
    """What a fine-tuning came to.

    `points` are the line's, from zero-shot to fine-tuned; `records` the lines about them that were added to
    `results_file`, one for each α and set; `saved` the models that were kept; `unreadable` counts the
    pictures in whose place others were trained on.
    """

    run: Path
    checkpoint: Path
    trained: int
    held_out: bool
    unreadable: int
    points: tuple[Point, ...]
    records: tuple[dict[str, Any], ...]
    results_file: Path
    plot: Path | None
    saved: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values; `results` are the lines of results.jsonl."""
        return {
            "run": str(self.run),
            "checkpoint": str(self.checkpoint),
            "trained_pictures": self.trained,
            "held_out": self.held_out,
            "unreadable": self.unreadable,
            "results": list(self.records),
            "results_file": str(self.results_file),
            "plot": str(self.plot) if self.plot else None,
            "saved": [str(each) for each in self.saved],
        }

    def lines(self) -> str:
        """Return a table with a line an α, and where everything is."""
        first, *shifted = self.points[0].scores
        header = ["α", f"{first.name} (in distribution)", *(each.name for each in shifted)]
        header += ["mean shifted"] * (len(shifted) > 1)
        lines = [table([self._row(point) for point in self.points], header)]
        lines.append("top-1; α 0 is the zero-shot model, 1 the fine-tuned one")
        for score in self.points[0].scores:
            lines.append(f"{score.name}: {score.images:,} pictures{', a subset' * score.partial}")
            lines += [f"unreadable, left out of {score.name}: {path}" for path in score.unreadable]
        if self.unreadable:
            lines.append(f"{self.unreadable:,} unreadable pictures, in whose places others were trained on")
        lines.append(f"fine-tuned on {self.trained:,} pictures: {self.checkpoint}")
        lines += [f"kept: {each}" for each in self.saved]
        return "\n".join([*lines, *self._files()])

    def _row(self, point: Point) -> list[Cell]:
        shares = [score.top1 for score in point.scores]
        if len(shares) > 2:
            shares.append(point.shifted)
        return [_exact(point.alpha), *(f"{share:.2%}" for share in shares)]

    def _files(self) -> list[str]:
        plot = [f"drawn: {self.plot}"] if self.plot else ["no shifted set, so no plot"]
        return [*plot, f"added to {self.results_file}"]


def finetune(
    checkpoint: Path,
    config: FinetuneConfig,
    run: RunDirectory,
    *,
    model: str | None = None,
    device: str | None = None,
) -> Finetuning:
    """Fine-tune the zero-shot model of a file in any format, and measure the line between both weight sets.

    `model` names the configuration of a file that does not say its own. A run that was begun is continued, a
    finished one only measured. Everything is opened and checked before the first picture is read. Raises
    EvaluationError and CheckpointError, and what `fine_tune` raises.
    """
    refuse_several("finetune")
    with open_world(device) as world:
        check_picture(_picture(config, run))
        data = read_data(config)
        training = Training.of(config, data, world.device.type)
        clip, about, own_head = opened_model(checkpoint, str(world.device), model)
        if own_head is not None:
            raise CheckpointError(
                f"{checkpoint} was fine-tuned already: give the zero-shot model that it was made of"
            )
        with run.opened():
            zero_shot = Weights.of(clip, _zero_shot_head(clip, data))
            add_head(clip, zero_shot.head_DN, freeze_image=config.freeze_image)
            start = {"pretrained": str(checkpoint), "pretrained_sha256": about["checkpoint_sha256"]}
            start |= {"model": clip.config.name}
            state = fine_tune(clip, data, config, training, run, start, world)
            fine_tuned = Weights.of(clip, head_weights(clip))
            about |= {"run": run.name} | _how_tuned(config, training, state)
            return _measure(clip.eval(), (zero_shot, fine_tuned), data, config, run, about, state)


def _how_tuned(config: FinetuneConfig, training: Training, state: TrainState) -> dict[str, Any]:
    """What a record says of the fine-tuning, to repeat it from the zero-shot model that the record names."""
    return {
        "options": config.model_dump(mode="json", exclude_defaults=True),
        "seed": config.seed,
        "trained_path": str(Path(training.samples.source).absolute()),
        "trained_sha256": training.samples.fingerprint,
        "trained_pictures": len(training.samples),
        "trained_unreadable": state.bad.count,
        "trained_steps": state.step,
        "trained_precision": training.settings.precision,
    }


def _exact(alpha: float) -> str:
    """Every digit that tells it from others, and none for 0 and 1."""
    return repr(alpha).removesuffix(".0")


def _picture(config: FinetuneConfig, run: RunDirectory) -> Path:
    return config.plot or run.path / "line.png"


def _zero_shot_head(clip: Clip, data: Data) -> torch.Tensor:
    with shown(f"{data.classes.name} classifier", data.classes.prompt_count, "prompts") as report:
        return build_classifier(clip, Tokenizer(clip.context_length), data.classes, report=report)


def _measure(
    clip: Clip,
    ends: tuple[Weights, Weights],
    data: Data,
    config: FinetuneConfig,
    run: RunDirectory,
    about: dict[str, Any],
    state: TrainState,
) -> Finetuning:
    sets = (data.in_distribution, *data.shifted)
    points, records, saved = [], [], []
    line = measured(clip, ends, config.points, sets, workers=config.evaluating_workers, display=shown)
    for each in line:
        for place, (images, result) in enumerate(zip(sets, each.results, strict=True)):
            record = zero_shot_record(result, data.classes, images, about)
            role = "shifted" if place else "in-distribution"
            record |= {"kind": "finetune", "alpha": each.alpha, "role": role}
            records.append(decoded_record(record))
            run.results.append(records[-1], durable=True)
        points.append(each.point)
        if each.alpha in config.save_alpha:
            head = Head(data.classes, each.weights.head_DN)
            saved.append(_save(clip, head, each.alpha, config, run, state))
    checkpoint = run.latest()
    assert checkpoint is not None, "a run that came to its end has written its last checkpoint"
    return Finetuning(
        run=run.path,
        checkpoint=checkpoint,
        trained=len(data.train),
        held_out=data.is_held_out,
        unreadable=state.bad.count,
        points=tuple(points),
        records=tuple(records),
        results_file=run.path / RESULTS,
        plot=plot_line(points, _picture(config, run), data.reference) if data.shifted else None,
        saved=tuple(saved),
    )


def _save(
    clip: Clip, head: Head, alpha: float, config: FinetuneConfig, run: RunDirectory, state: TrainState
) -> Path:
    """Write the model at `alpha`: `clip`, whose image tower is that one's, and the head beside it."""
    path = run.checkpoints / f"alpha_{_exact(alpha)}.pt"
    own = clip_weights(clip.state_dict())
    content = Checkpoint(
        epoch=config.epochs,
        name=f"{run.name} at alpha {_exact(alpha)}",
        state_dict=own,
        model_config=clip.config.model_dump(mode="json"),
        step=state.step,
        position=state.step * config.batch_size,
        train_config=run.read_config() or {},
        extra={HEAD_KEY: head.stored(), "alpha": alpha},
    )
    save_checkpoint(path, content)
    return path
