"""The fine-tuning itself: train's loop over labelled pictures, from where the run stands."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import torch

from clipkit.evaluate.ranks import Ranks
from clipkit.evaluate.zero_shot import classify
from clipkit.finetune.classifier import ClassifierCheckpoints, ClassifierStep, Logits, head_weights
from clipkit.finetune.config import FinetuneConfig
from clipkit.finetune.data import Data
from clipkit.finetune.samples import LabelledSet, labels_of
from clipkit.model.clip import Clip
from clipkit.model.preprocess import TrainTransform
from clipkit.progress import Progress
from clipkit.shards.loader import batches, prepare_workers
from clipkit.train.bad_samples import RunBadCount
from clipkit.train.checkpoints import restore
from clipkit.train.config import ResolvedConfig
from clipkit.train.distributed import World
from clipkit.train.evaluating import Evaluator
from clipkit.train.interrupt import Interruption
from clipkit.train.length import RunLength, run_length
from clipkit.train.logs import RunLog
from clipkit.train.loop import Loop
from clipkit.train.optimizer import AdamSettings, make_optimizer
from clipkit.train.precision import tf32
from clipkit.train.run_directory import RunDirectory
from clipkit.train.same_run import check_same_run
from clipkit.train.schedule import Schedule
from clipkit.train.state import TrainState, run_settings


@dataclass(frozen=True)
class Training:
    """What the trainer is told: its settings, its pictures, how long it goes and warms up."""

    settings: ResolvedConfig
    samples: LabelledSet
    length: RunLength
    warmup: int

    @classmethod
    def of(cls, config: FinetuneConfig, data: Data, device_type: str) -> "Training":
        """Work it out for so many pictures. Raises ConfigError for a batch or a warm-up that is too large."""
        settings, samples = config.training(device_type), LabelledSet(data.train)
        length = run_length(settings, len(samples))
        return cls(settings, samples, length, config.warmup_steps(settings, length.steps))


def fine_tune(
    clip: Clip,
    data: Data,
    config: FinetuneConfig,
    training: Training,
    run: RunDirectory,
    start: dict[str, Any],
    world: World,
) -> TrainState:
    """Train `clip`, which has its head, to the end of the run; return what `run`, which is open, came to.

    `start` are the settings that say which zero-shot model it is. The in-distribution accuracy is measured
    before the first step and after each epoch. Raises TrainError for a run of other settings or one that
    diverges, TrainInterrupted after a signal, DatasetError for too many pictures that cannot be read.
    """
    samples, length = training.samples, training.length
    settings = run_settings(training.settings, samples) | config.settings() | start
    settings |= {"classes_sha256": data.classes.names_sha256, "prompts_sha256": data.classes.templates_sha256}
    with Interruption() as interruption, ExitStack() as stack:
        if config.workers:
            prepare_workers(TrainTransform, labels_of)
        stack.enter_context(tf32(training.settings.tf32, world.device))
        step = _step(clip, config, training, world)
        writer = ClassifierCheckpoints(
            data.classes, run, clip, step.optimizer, step.scaler, length, settings, world
        )
        stored = run.read_config()
        if stored is not None:
            check_same_run(run.path, stored, settings)
        latest = run.latest()
        state = restore(latest, writer) if latest else TrainState()
        run.write_config(settings)
        shown = stack.enter_context(Progress("finetune", total=length.samples, unit="pictures"))
        if state.step == length.steps and run.is_evaluated(state.step):
            shown.update(state.step * length.batch_size, note=f"finished before: {latest}")
            return state
        log = stack.enter_context(RunLog(run, length, state, shown, settings))
        stack.enter_context(writer)
        bad = RunBadCount(config.max_bad, length.batch_size, state, world, log.say)
        transform = TrainTransform(clip.config.image_size, scale=config.crop_scale, flip=config.flip)
        stream = batches(
            samples,
            batch_size=length.batch_size,
            workers=config.workers,
            seed=config.seed,
            position=state.step * length.batch_size,
            stop=length.samples,
            transform=transform,
            tokenize=labels_of,
            told=bad.add,
        )
        stack.enter_context(closing(stream))
        watched = [_watched(data, config)]
        loop = Loop(training.settings, length, state, bad, step, writer, watched, log, interruption)
        loop.train(stream)
        return state


def _step(clip: Clip, config: FinetuneConfig, training: Training, world: World) -> ClassifierStep:
    torch.manual_seed(config.seed)
    clip.train()
    settings = training.settings
    adam = AdamSettings((settings.beta1, settings.beta2), settings.eps, settings.weight_decay)
    return ClassifierStep(
        clip,
        Logits(clip),
        make_optimizer(clip, adam),
        Schedule(settings.lr, training.warmup, training.length.steps),
        world,
        settings.precision,
        settings.grad_clip,
        label_smoothing=config.label_smoothing,
    )


def _watched(data: Data, config: FinetuneConfig) -> Evaluator:
    images = data.in_distribution

    def figures(clip: Clip, ranks: Ranks) -> Iterator[tuple[str, float]]:
        result = classify(clip, head_weights(clip), images, workers=config.evaluating_workers, ranks=ranks)
        yield f"{images.name}-top1", result.top1
        yield f"{images.name}-top5", result.top5

    return figures
