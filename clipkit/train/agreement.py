"""What the processes of a run must agree on: its settings and data, and where it stands."""

from typing import Any

from clipkit.agreement import differing
from clipkit.errors import ConfigError
from clipkit.train.distributed import World
from clipkit.train.run_directory import RunDirectory

_OWN = {"workers", "processes"}  # with any other difference the processes would wait for each other in vain


def check_same_settings(world: World, settings: dict[str, Any]) -> None:
    """Raise ConfigError in all processes unless all have the same settings and data; all call it together.

    A machine may have the data at another path, and as many processes and workers as suit it.
    """
    data = {name: value for name, value in settings["data"].items() if name != "directory"}
    common = {name: value for name, value in settings.items() if name not in _OWN | {"data"}}
    if found := differing({"settings": common, "data": data}, world):
        raise ConfigError(
            "expected all processes to have the same settings and data, found different "
            f"{' and '.join(found)}: give the same command, data and folder of runs on all machines"
        )


def check_same_place(world: World, run: RunDirectory, step: int) -> None:
    """Raise ConfigError in all processes unless all find `run` after the same step; all call it together.

    The first process has made its folder by then.
    """
    found = step if run.checkpoints.is_dir() else -1
    if differing({"place": found}, world):
        seen = f"after step {step:,}" if found >= 0 else "nowhere"
        raise ConfigError(
            f"{run.path}: process {world.rank} finds the run {seen}, another one does not: "
            "--runs must be a folder that all machines share"
        )
