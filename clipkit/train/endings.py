"""Which of the failures of a command's processes is the cause of the others, and what is told of it."""

import signal
from collections.abc import Mapping
from typing import NamedTuple

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from clipkit.errors import TrainError
from clipkit.train.distributed import ProcessHangsError, ProcessLostError

_CONSEQUENCES = {ProcessHangsError.__name__, ProcessLostError.__name__}
_ENDED_BY_THE_AGENT = {-signal.SIGTERM, 128 + signal.SIGTERM}


class ProcessesFailedError(TrainError):
    """The processes of a command that ended, all of them, since one failed; `exit_code` is that one's."""

    def __init__(self, line: str, code: int = 1):
        super().__init__(line)
        self.exit_code = code


def raise_ending(
    failures: Mapping[int, ProcessFailure], processes: int, asked: int, at_once: bool, remedy: str
) -> None:
    """Raise ProcessesFailedError with the one line about the `failures` of processes, by rank.

    `asked` is the number of the signal that was passed on to them, or 0: if it ended them before they had
    anything to say, the exit is silent, as that of a single process is. `at_once`: they were killed then.
    `remedy` says what is to be done after that, or with the cause mended.
    """
    if not failures:
        return
    told = {rank: found for rank, failure in failures.items() if (found := _told(failure)) is not None}
    own = [found for found in told.values() if found.kind not in _CONSEQUENCES]
    if own:
        first = min(own, key=lambda found: found.time)
        raise ProcessesFailedError(first.line, first.code)
    if asked and at_once:
        raise ProcessesFailedError(f"ended at once, at the second signal: {remedy}", 128 + asked)
    if asked:
        raise SystemExit(128 + asked)
    silent = {rank: failure.exitcode for rank, failure in failures.items() if rank not in told}
    raise ProcessesFailedError(_cause(told, silent, processes, remedy))


class _Told(NamedTuple):
    line: str
    kind: str
    time: float
    code: int


def _told(failure: ProcessFailure) -> _Told | None:
    match failure.error_file_data:
        case {"message": {"message": str(line), "extraInfo": {"kind": kind, "time": time, "code": code}}}:
            return _Told(line.removeprefix("clipkit: "), kind, time, code)
    return None


def _cause(told: Mapping[int, _Told], silent: Mapping[int, int], processes: int, remedy: str) -> str:
    waited = [found.line for found in told.values() if found.kind == ProcessHangsError.__name__]
    ended = {rank: code for rank, code in silent.items() if code not in _ENDED_BY_THE_AGENT}
    killed = {rank: code for rank, code in ended.items() if code < 0}
    if waited and killed:
        return f"process {' and '.join(map(str, killed))} of {processes} hung and was ended; {waited[0]}"
    if waited:
        return waited[0]
    if killed:
        rank, code = next(iter(killed.items()))
        return (
            f"process {rank} of {processes} was killed by {signal.Signals(-code).name}, as the system does "
            f"when memory runs out, and all were ended: mend the cause; {remedy}"
        )
    if ended:
        rank, code = next(iter(ended.items()))
        return (
            f"process {rank} of {processes} ended with exit code {code}, and all were ended: "
            "what it printed says why"
        )
    if told:
        return next(found.line for found in told.values())
    return f"all {processes} processes were ended from outside: {remedy}"
