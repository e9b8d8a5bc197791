"""`train`: put a run together, begin or continue it, and say what came of it."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import torch

from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig, named_config
from clipkit.model.memory_layout import fast_layout
from clipkit.model.preprocess import TrainTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.processes import keep_freed_memory
from clipkit.progress import Progress
from clipkit.shards.aspects import warning_of_longer
from clipkit.shards.loader import Batch, batches, prepare_workers
from clipkit.shards.mixture import Mixture
from clipkit.shards.plan import draw_key
from clipkit.shards.sample_set import SampleSet
from clipkit.train.agreement import check_same_place, check_same_settings
from clipkit.train.bad_samples import RunBadCount
from clipkit.train.checkpoints import CheckpointWriter, restore
from clipkit.train.compiling import compiling
from clipkit.train.config import ResolvedConfig, TrainConfig
from clipkit.train.distributed import World, open_world
from clipkit.train.evaluating import Evaluator
from clipkit.train.interrupt import Interruption
from clipkit.train.length import RunLength, run_length, warmup_steps
from clipkit.train.logs import RunLog
from clipkit.train.loop import Loop
from clipkit.train.optimizer import AdamSettings, make_optimizer
from clipkit.train.overfit import described, fixed_samples, repeated
from clipkit.train.precision import tf32
from clipkit.train.pretrained import Start, find_start, initial_model
from clipkit.train.recipes import LARGEST_ASPECT, description
from clipkit.train.result import TrainResult, result_of
from clipkit.train.run_directory import RunDirectory
from clipkit.train.same_run import check_same_run
from clipkit.train.schedule import Schedule
from clipkit.train.shares import check_mixture, check_shares
from clipkit.train.small_pictures import small_pictures
from clipkit.train.state import TrainState, run_settings
from clipkit.train.step import TrainStep, wrapped_features
from clipkit.train.sync_batch_norm import synchronize_batch_norm

_ON_THE_CPU = "training on the CPU, which takes many times as long as on a GPU"

ProgressFactory = Callable[[int], Progress]
"""Makes the display for a run of so many samples."""


def display(samples: int) -> Progress:
    """Return the usual display of a run of `samples` samples."""
    return Progress("train", total=samples, unit="samples")


def train(
    config: TrainConfig,
    shards: SampleSet | Mixture,
    run: RunDirectory,
    evaluators: Sequence[Evaluator] = (),
    progress: ProgressFactory = display,
    device: str | None = None,
) -> TrainResult:
    """Train a model on `shards` as `config` says, from where the run stands if it was begun before.

    Called once in each process of the run (torchrun's environment tells which); all evaluate
    with `evaluators` when `evaluation_due` says so; the first one writes the files and shows `progress`.
    Raises ConfigError for settings that do not fit, TrainError for a run of other settings or one that
    diverges, TrainInterrupted after a signal, CheckpointError and DatasetError for unreadable files.
    """
    with open_world(device, config.timeout) as world, Interruption() as interruption, ExitStack() as stack:
        if config.workers:
            prepare_workers(TrainTransform, Tokenizer)
        if world.device.type == "cpu":
            keep_freed_memory()
        model_config = named_config(config.model)
        resolved = config.resolved(model_config, world.device.type)
        length = run_length(resolved, len(shards))
        check_mixture(resolved, shards)
        evaluators = () if resolved.overfit else evaluators
        check_shares(resolved, world.size)
        stack.enter_context(tf32(resolved.tf32, world.device))
        stack.enter_context(compiling(resolved))
        begun = run.read_config() if run.latest() else None
        start = find_start(config, begun)
        settings = run_settings(resolved, shards) | start.as_settings()
        check_same_settings(world, settings)
        model = initial_model(config, model_config, Start() if begun else start)
        step = _training_step(resolved, model, length, world)
        checkpoints = CheckpointWriter(run, step.model, step.optimizer, step.scaler, length, settings, world)
        if world.is_first:
            run.check_resume(resolved.resume)
            stack.enter_context(run.opened())
            _check(run, settings)
        world.barrier()

        latest = run.latest()
        state = restore(latest, checkpoints) if latest else TrainState()
        check_same_place(world, run, state.step)
        if world.is_first:
            run.write_config(settings)
        shown = stack.enter_context(progress(length.samples)) if world.is_first else None
        finished = state.step == length.steps and (not evaluators or run.is_evaluated(state.step))
        if shown and finished:
            shown.update(state.step * length.batch_size, note=f"finished before: {latest}")
        if not finished:
            log = stack.enter_context(RunLog(run, length, state, shown, settings)) if shown else None
            say = log.say if log else None
            if say:
                for line in _remarks(shards, model_config, world):
                    say(line)
            stack.enter_context(checkpoints)
            bad = RunBadCount(resolved.max_bad, length.batch_size, state, world, say)
            if log and not state.step:
                _say_recipe(resolved, shards, log)
            stream = _stream(resolved, model_config, shards, length, state, world, bad, log)
            stack.enter_context(closing(stream))
            Loop(resolved, length, state, bad, step, checkpoints, evaluators, log, interruption).train(stream)
        world.barrier()
        return result_of(run, length, state, finished, resolved.overfit)


def _training_step(config: ResolvedConfig, model: Clip, length: RunLength, world: World) -> TrainStep:
    torch.manual_seed(draw_key(config.seed, world.rank))
    model = fast_layout(model.to(world.device))
    model.set_gradient_checkpointing(config.grad_checkpointing)
    if config.lock_image:
        model.lock_image()
    if config.lock_text:
        model.lock_text()
    if config.sync_batch_norm:
        model = synchronize_batch_norm(model, world)
    optimizer = make_optimizer(
        model, AdamSettings((config.beta1, config.beta2), config.eps, config.weight_decay)
    )
    schedule = Schedule(config.lr, warmup_steps(config, length.steps), length.steps, config.schedule)
    return TrainStep(
        model,
        wrapped_features(model, world, config.compile),
        optimizer,
        schedule,
        world,
        config.precision,
        config.grad_clip,
        config.accumulate,
        config.compile,
    )


def _remarks(shards: SampleSet | Mixture, model: ClipConfig, world: World) -> Iterator[str]:
    if world.device.type == "cpu":
        yield _ON_THE_CPU
    yield from small_pictures(shards, model)


def _check(run: RunDirectory, settings: dict[str, Any]) -> None:
    stored = run.read_config()
    if stored is not None:
        check_same_run(run.path, stored, settings)


def _stream(
    config: ResolvedConfig,
    model_config: ClipConfig,
    shards: SampleSet | Mixture,
    length: RunLength,
    state: TrainState,
    world: World,
    bad: RunBadCount,
    log: RunLog | None,
) -> Generator[Batch]:
    transform = TrainTransform(
        model_config.image_size,
        scale=config.crop_scale,
        flip=config.flip,
        color_jitter=config.color_jitter,
        color_jitter_probability=config.color_jitter_probability,
        gray_scale_probability=config.gray_scale_probability,
    )
    tokenize = Tokenizer(model_config.text.context_length)
    if config.overfit is not None:
        say = log.say if log else _silent
        samples = fixed_samples(shards, config, config.overfit, transform, tokenize, say)
        say(described(samples))
        return repeated(samples, length.batch_size, state.step, length.steps, world)
    return batches(
        shards,
        batch_size=length.batch_size,
        rank=world.rank,
        world_size=world.size,
        workers=config.workers,
        seed=config.seed,
        position=state.step * length.batch_size,
        stop=length.samples,
        transform=transform,
        tokenize=tokenize,
        told=bad.add,
        streams=config.streams,
    )


def _silent(line: str) -> None:
    pass


def _say_recipe(config: ResolvedConfig, shards: SampleSet | Mixture, log: RunLog) -> None:
    if config.recipe is None:
        return
    log.say(description(config.recipe, config.model_dump()))
    for each in shards.sets if isinstance(shards, Mixture) else (shards,):
        warning = warning_of_longer(each.source, LARGEST_ASPECT, "the published runs left them out")
        if warning is not None:
            log.say(warning)
