"""OpenCLIP's own training program on batches that it is given: all of `open_clip_train.main` but its loader.

Nothing of it is written again here: model, optimizer, groups, schedule, loss, step and log are its own.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import open_clip
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torchvision.transforms.functional import normalize

from clipkit.model.config import ClipConfig
from clipkit.model.formats.open_clip import to_json
from clipkit.shards.loader import Batch

_DATA_MODULE, _MAIN_MODULE = "open_clip_train.data", "open_clip_train.main"


@dataclass
class _Loader:
    batches: Sequence[Batch]

    @property
    def num_batches(self) -> int:
        return len(self.batches)

    @property
    def num_samples(self) -> int:
        return sum(len(batch.tokens_BL) for batch in self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        statistics = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        for batch in self.batches:
            yield normalize(batch.images_BCHW / 255, *statistics), batch.tokens_BL


@dataclass
class _Data:
    dataloader: _Loader

    def set_epoch(self, epoch: int) -> None:
        pass  # the batches are in their order already


def losses_of_open_clip(
    config: ClipConfig,
    weights: Mapping[str, Tensor],
    batches: Sequence[Batch],
    options: Mapping[str, object],
    folder: Path,
) -> list[float]:
    """Train `config` from `weights` on `batches` with OpenCLIP's `--options`; return the loss of each step.

    Files go to `folder`, which must be a new one for each call.
    """
    folder.mkdir()
    description, start = folder / f"{config.file_name}.json", folder / "start.pt"
    description.write_text(json.dumps(to_json(config)))
    open_clip.add_model_config(description)
    torch.save(dict(weights), start)
    given = {
        **{"model": config.file_name, "pretrained": start, "train-data": "given", "epochs": 1},
        **{"batch-size": len(batches[0].tokens_BL), "precision": "fp32", "device": "cpu"},
        **{"logs": folder, "name": "run", "report-to": "tensorboard", "log-every-n-steps": 1},
        **options,
    }
    with _without_its_loader(batches) as main:
        main([word for name, value in given.items() for word in (f"--{name}", str(value))])
    events = EventAccumulator(str(folder / "run" / "tensorboard")).Reload()
    return [event.value for event in events.Scalars("train/loss")]


@contextmanager
def _without_its_loader(batches: Sequence[Batch]) -> Iterator[Callable[[list[str]], object]]:
    """OpenCLIP's main with `batches` in the place of its data; what it does to all loggers is undone."""
    data = ModuleType(_DATA_MODULE)
    data.get_data = lambda *_, **__: {"train": _Data(_Loader(batches))}  # type: ignore[attr-defined]
    loggers = [logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)]
    levels, handlers = [logger.level for logger in loggers], list(logging.root.handlers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, _DATA_MODULE, data)
        patch.delitem(sys.modules, _MAIN_MODULE, raising=False)
        from open_clip_train.main import main

        try:
            yield main
        finally:
            sys.modules.pop(_MAIN_MODULE)
            for handler in set(logging.root.handlers) - set(handlers):
                logging.root.removeHandler(handler)
                handler.close()
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
