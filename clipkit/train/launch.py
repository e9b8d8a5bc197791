"""Starts the processes of a command on this machine, with torchrun's own agent, and says how they ended."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from clipkit import scratch
from clipkit.cpus import available_cpus
from clipkit.launched import LAUNCHER
from clipkit.train.endings import raise_ending
from clipkit.train.interrupt import Interruption

_HOST = "127.0.0.1"
_LOOPBACK = "lo"
_NO_COUNT = "ignore::UserWarning:multiprocessing.resource_tracker"
_LOOK_SECONDS = 0.1


def launch(processes: int, remedy: str) -> None:
    """Run this process's own command line in `processes` processes; return when all have ended well.

    `remedy` says what is to be done when they were ended, with the cause mended.

    The first signal that `Interruption` notes is passed on to them, a second Ctrl-C ends them at once. They
    end with this process, however it goes.
    Raises ProcessesFailedError with the line of the one that failed first, and its exit code.
    """
    with scratch.folder() as folder, _environment(processes), _quiet(), Interruption() as interruption:
        running = _Running(_agent(processes, folder))
        running.start()
        at_once = False
        try:
            running.pass_on_when_asked(interruption)
        except KeyboardInterrupt:  # the second one
            at_once = True
            running.kill()
        if running.error is not None:
            raise running.error
        assert running.result is not None
        raise_ending(running.result.failures, processes, interruption.number, at_once, remedy)


class _Running(threading.Thread):
    """The agent in a thread: in the main one it takes over signals, and passes them on to loaders too."""

    def __init__(self, agent: LocalElasticAgent):
        super().__init__(daemon=True)
        self._agent = agent
        # Up to Python 3.12, a thread whose join an exception interrupts counts as ended.
        self._ended = threading.Event()
        self.result: RunResult | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Run the processes to their end; keep what came of it."""
        try:
            self.result = self._agent.run()
        except BaseException as error:
            self.error = error
        finally:
            self._ended.set()

    def pass_on_when_asked(self, interruption: Interruption) -> None:
        """Wait for the end; a signal is passed on once, when all processes have begun."""
        asked = 0
        while not self._ended.wait(_LOOK_SECONDS):
            if interruption.number and not asked and (begun := self._begun()):
                asked = interruption.number
                for each in begun:
                    with suppress(ProcessLookupError):
                        os.kill(each, asked)

    def kill(self) -> None:
        """End all processes at once, and what they have started: each leads a session."""
        while not self._ended.is_set():
            for each in self._begun():
                with suppress(ProcessLookupError):
                    os.killpg(each, signal.SIGKILL)
            self._ended.wait(_LOOK_SECONDS)

    def _begun(self) -> list[int]:
        numbers = [worker.id for worker in self._agent.get_worker_group().workers]
        return numbers if None not in numbers else []


def _agent(processes: int, folder: Path) -> LocalElasticAgent:
    words = [word.replace("$", "$$") for word in sys.orig_argv[1:]]  # the agent fills in ${local_rank}
    spec = WorkerSpec(
        role="clipkit",
        local_world_size=processes,
        rdzv_handler=_OnThisMachine(),
        entrypoint=sys.executable,
        args=tuple(words),
        max_restarts=0,
        monitor_interval=_LOOK_SECONDS,
        local_addr=_HOST,
    )
    return LocalElasticAgent(spec, DefaultLogsSpecs(log_dir=str(folder)))


class _OnThisMachine(RendezvousHandler):
    """The meeting of one agent with itself, whose store nobody outside this machine can reach."""

    def __init__(self) -> None:
        listening = socket.create_server((_HOST, 0))
        self._port = listening.getsockname()[1]
        self._store = TCPStore(
            _HOST,
            self._port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
            use_libuv=False,  # which takes no socket that listens in every version of torch
        )

    @property
    def use_agent_store(self) -> bool:
        return True

    def get_backend(self) -> str:
        return "static"

    def next_rendezvous(self) -> RendezvousInfo:
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo(_HOST, self._port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return "clipkit"

    def shutdown(self) -> bool:
        return True


@contextmanager
def _environment(processes: int) -> Iterator[None]:
    """Set for the processes what they inherit; whatever the user has set stays."""
    wanted = {"OMP_NUM_THREADS": str(max(1, available_cpus() // processes))}
    if _LOOPBACK in {name for _, name in socket.if_nameindex()}:
        wanted["GLOO_SOCKET_IFNAME"] = _LOOPBACK  # else gloo takes the address of this machine's name
    before = dict(os.environ)
    os.environ.update(wanted | before)
    os.environ[LAUNCHER] = str(os.getpid())
    # One that is killed leaves its tracker of memory behind, which counts for the user what was lost.
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before.get("PYTHONWARNINGS"), _NO_COUNT)))
    try:
        yield
    finally:
        for name in (*wanted, LAUNCHER, "PYTHONWARNINGS"):
            os.environ.pop(name, None)
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the agent's log to itself: what it has to say is said in one line."""
    log = logging.getLogger("torch.distributed.elastic")
    silent = logging.NullHandler()
    before, log.propagate = log.propagate, False
    log.addHandler(silent)
    try:
        yield
    finally:
        log.removeHandler(silent)
        log.propagate = before
