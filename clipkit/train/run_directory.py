"""The folder of one run: its settings, its figures line by line, its checkpoints and which one is newest.

    NAME/config.json  metrics.jsonl  results.jsonl  out.log  tensorboard/
    NAME/checkpoints/{step_N.pt,epoch_N.pt,latest}

`latest` is a symbolic link to the newest checkpoint beside it. Copies of a run may lack the link or hold a
file in its place; the newest is then the checkpoint that is furthest trained.
"""

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path

from clipkit import atomic
from clipkit.errors import CheckpointError, TrainError, one_line
from clipkit.json_values import parsed_json
from clipkit.lines import JsonLines, Line
from clipkit.locations import decoded
from clipkit.locks import Held, exclusive
from clipkit.run_folder import CHECKPOINTS, CONFIG, METRICS, RESULTS
from clipkit.train.config import Resume
from clipkit.train.length import RunLength

_TRAINING = "training"  # the kind of our lines in results.jsonl, among those of later evaluations
_LATEST = "latest"
_KEPT_STEPS = 2
_PLACE = frozenset({"step", "samples", "epoch"})  # of each line of metrics.jsonl
_LOCK = ".lock"
_CHECKPOINT = re.compile(r"(epoch|step)_(\d+)\.pt", re.ASCII)


class RunDirectory:
    """One run's files. Making this object touches nothing on disk; `opened` creates and locks the folder."""

    def __init__(self, path: Path):
        self.path = path
        self.name = path.resolve().name
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / CHECKPOINTS
        self.metrics = JsonLines(path / METRICS, TrainError)
        self.results = JsonLines(path / RESULTS, TrainError)
        self._config = path / CONFIG

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Create the folder if need be and hold it for this process alone, where its file system has locks.

        Raises TrainError if it holds something else than a run, cannot be written, is in use, or has a path
        that is no UTF-8, which TensorBoard cannot write to.
        """
        if decoded(str(self.path)) != str(self.path):
            raise TrainError(
                f"{self.path}: expected the run's folder to have a path in UTF-8: choose another"
            )
        self._refuse_foreign()
        with ExitStack() as stack:
            try:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive(self.path / _LOCK))
            except Held:
                raise TrainError(f"{self.path}: another process is training this run: wait for it") from None
            except OSError as error:
                raise TrainError(
                    f"{self.path}: the run's folder cannot be written, {error.strerror}: mend that, "
                    "or choose another --runs"
                ) from error
            for unfinished in self.checkpoints.glob(atomic.TEMPORARIES):
                unfinished.unlink()
            yield

    def _refuse_foreign(self) -> None:
        if self._config.exists() or not self.path.exists():
            return
        found = [each.name for each in self.path.iterdir()] if self.path.is_dir() else ["a file"]
        foreign = [each for each in found if each not in {self.checkpoints.name, _LOCK}]
        foreign = [each for each in foreign if not fnmatch(each, atomic.TEMPORARIES)]
        if foreign:
            raise TrainError(
                f"{self.path}: expected a run or an empty folder, found {foreign[0]}: choose another --name"
            )

    def check_resume(self, resume: Resume) -> None:
        """Raise TrainError if there is a run and there must never be, or no checkpoint and there must be."""
        if resume == "never" and (self._config.exists() or self._found()):
            raise TrainError(
                f"{self.path}: with --resume never expected no run of this name, found one: choose another "
                "--name, or move it away"
            )
        if resume == "must" and self.latest() is None:
            raise TrainError(
                f"{self.path}: with --resume must expected a checkpoint to go on from, found none: mend "
                "--name and --runs, or begin the run with --resume auto"
            )

    def read_config(self) -> Line | None:
        """Return what `write_config` stored, None for a new run. Raises TrainError if the file is damaged."""
        try:
            config = parsed_json(self._config.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            config = None
        if not isinstance(config, dict):
            raise TrainError(
                f"{self._config}: expected a run's settings in JSON: restore it, or choose another --name"
            )
        return config

    def write_config(self, config: Line) -> None:
        """Store the run's settings."""
        atomic.write_json(self._config, config)

    def latest(self) -> Path | None:
        """Return the newest checkpoint, None if there is none yet.

        Raises CheckpointError if it is gone, or if there is no telling which it is.
        """
        marker = self.checkpoints / _LATEST
        if not marker.is_symlink():
            return self._furthest() or (marker if marker.is_file() else None)
        path = self.checkpoints / marker.readlink().name
        if not path.is_file():
            others = ", or remove this link to go on from an older one" if self._found() else ""
            raise CheckpointError(f"{marker}: names {path.name!r}, which is not there: restore it{others}")
        return path

    def older(self, newest: Path) -> list[Path]:
        """Return the checkpoints that were trained for less long than `newest`, the furthest trained first.

        `newest` need not be there. None are told where the run's settings do not say how far each is.
        """
        length = self._stored_length()
        if length is None:
            return []
        trained = {path: _samples_trained(path.name, length) for path in self._found()}
        limit = _samples_trained(newest.name, length) or math.inf  # `latest`, if it is a file, is the newest
        older = [path for path, samples in trained.items() if samples < limit]
        return sorted(older, key=trained.__getitem__, reverse=True)

    def command_to_choose(self, checkpoint: Path) -> str:
        """Return the shell's command that makes `checkpoint`, one of the run's, the newest."""
        return shlex.join(["ln", "-sfn", checkpoint.name, str(self.checkpoints / _LATEST)])

    def _found(self) -> list[Path]:
        return [path for path in self.checkpoints.glob("*.pt") if _CHECKPOINT.fullmatch(path.name)]

    def _furthest(self) -> Path | None:
        found = self._found()
        if len(found) < 2:
            return found[0] if found else None
        length = self._stored_length()
        if length is None:
            raise CheckpointError(
                f"{self.checkpoints}: expected a link {_LATEST!r}, or the run's {self._config.name} to tell "
                f"which of {len(found)} checkpoints is the newest: restore one of them"
            )
        return max(found, key=lambda path: _samples_trained(path.name, length))

    def _stored_length(self) -> RunLength | None:
        match self.read_config():
            case {"batch_size": int(batch_size), "data": {"samples": int(epoch_samples)}}:
                return RunLength(0, batch_size, epoch_samples)
        return None

    def set_latest(self, path: Path, keep: int | None, length: RunLength) -> None:
        """Name `path`, which is on disk, as the newest checkpoint; remove all but the newest `keep`.

        If `keep` is None, every epoch_N.pt stays, and the newest two step_N.pt. How new one is follows from
        its name and the run's `length`; `path` itself and files of any other name always stay.
        """
        atomic.write_link(self.checkpoints / _LATEST, path.name)
        trained = {each: _samples_trained(each.name, length) for each in self.checkpoints.iterdir()}
        kinds = "step_" if keep is None else ("step_", "epoch_")
        removable = [each for each, samples in trained.items() if samples and each.name.startswith(kinds)]
        places = (keep or _KEPT_STEPS) - path.name.startswith(kinds)
        older = sorted((each for each in removable if each.name != path.name), key=trained.__getitem__)
        for old in older[: max(0, len(older) - places)]:
            old.unlink()

    def add_evaluation(self, line: Mapping[str, float], checkpoint: str | None) -> None:
        """Append the figures of an evaluation during training to metrics.jsonl and then to results.jsonl."""
        self.metrics.append(line)
        self.results.append({"kind": _TRAINING, "checkpoint": checkpoint, **line})

    def is_evaluated(self, step: int) -> bool:
        """Whether the evaluation after `step` steps was written to its end."""
        return any(line.get("kind") == _TRAINING and _step(line) == step for line in self.results.read())

    def figures_of(self, step: int) -> list[dict[str, float]]:
        """Return the figures of that step in metrics.jsonl, line by line, without its place in the run."""
        lines = [line for line in self.metrics.read() if _step(line) == step]
        return [
            {name: math.nan if value is None else value for name, value in line.items() if name not in _PLACE}
            for line in lines
        ]

    def cut_back(self, step: int) -> None:
        """Remove the lines that a run continued at `step` will write again, and any that a kill tore.

        An evaluation at `step` itself stays if it is complete, that is, stands in results.jsonl; the lines
        that others wrote there all stay.
        """
        self.results.keep(lambda line: line.get("kind") != _TRAINING or _step(line) <= step)
        evaluated = step if self.is_evaluated(step) else step - 1
        self.metrics.keep(lambda line: _step(line) <= (step if "loss" in line else evaluated))

    def note(self, line: str) -> None:
        """Append a line with the time to out.log."""
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        with (self.path / "out.log").open("a", encoding="utf-8") as log:
            log.write(f"{time} {one_line(decoded(line))}\n")


def _samples_trained(name: str, length: RunLength) -> int:
    found = _CHECKPOINT.fullmatch(name)
    if found is None:
        return 0
    return int(found[2]) * (length.batch_size if found[1] == "step" else length.epoch_samples)


def newest_checkpoint(runs: Path) -> Path:
    """Return the newest checkpoint of the run in folder `runs` that wrote one last.

    Raises CheckpointError if none did.
    """
    written = {folder: _written(folder) for folder in runs.glob(f"*/{CHECKPOINTS}")}
    last = max(written, key=written.__getitem__, default=None)
    newest = RunDirectory(last.parent).latest() if last else None
    if newest is None:
        raise CheckpointError(f"{runs}: no run in it has a checkpoint: train one, or name a file")
    return newest


def _written(checkpoints: Path) -> int:
    marker = checkpoints / _LATEST
    files = [marker] if marker.is_symlink() else [marker, *checkpoints.glob("*.pt")]
    return max(
        (each.lstat().st_mtime_ns for each in files if each.is_symlink() or each.is_file()), default=-1
    )


def _step(line: Line) -> int:
    step = line.get("step")
    return step if isinstance(step, int) else 0
