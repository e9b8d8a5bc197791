"""Runs of several machines, as torchrun's agents start them: one a machine, here two on this one."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.processes import children_of, until
from tests.train.commands import TORCHRUN, losses, steps, training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WORDS = ("--batch-size", "120", "--save-every", "600")
SHORT = (*WORDS, "--samples-seen", "4800")
ENDLESS = (*WORDS, "--samples-seen", "9000000")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


@contextmanager
def nodes(
    dataset: Path,
    runs: list[Path],
    *words: str,
    address: str = "127.0.0.1",
    before: tuple[list[str], ...] = ([], []),
    own: tuple[tuple[str, ...], ...] = ((), ()),
) -> Iterator[list["subprocess.Popen[str]"]]:
    """Two agents with two processes each, that meet at a free port of `address`."""
    meeting = (f"--master-addr={address}", f"--master-port={free_port()}")
    with ExitStack() as stack:
        launchers = [
            (*TORCHRUN, *f"--nnodes=2 --node-rank={rank} --nproc-per-node=2".split(), *meeting)
            for rank in range(2)
        ]
        yield [
            stack.enter_context(
                training(
                    dataset, runs[rank], *words, *own[rank], launcher=launchers[rank], before=before[rank]
                )
            )
            for rank in range(2)
        ]


def said(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("clipkit: ")]


@pytest.fixture(scope="module")
def one(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one machine with as many processes."""
    runs = tmp_path_factory.mktemp("one")
    with training(small_dataset, runs, *SHORT, "--processes", "4") as process:
        _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    return runs


def test_two_machines_are_one_with_as_many_processes(small_dataset: Path, tmp_path: Path, one: Path) -> None:
    with nodes(small_dataset, [tmp_path] * 2, *SHORT, "--json") as agents:
        (printed, errors), (nothing, silent) = (each.communicate(timeout=280) for each in agents)
    assert [each.returncode for each in agents] == [0, 0], errors + silent
    assert printed.startswith('{"run": ') and nothing == ""
    assert losses(tmp_path) == losses(one)


def test_a_machine_that_is_lost_ends_the_other_and_a_restart_goes_on(
    small_dataset: Path, tmp_path: Path, one: Path
) -> None:
    with nodes(small_dataset, [tmp_path] * 2, *SHORT) as (first, second):
        until(lambda: steps(tmp_path) > 7, "they train", seconds=200)
        ranks = children_of(second.pid)
        second.kill()
        _, errors = first.communicate(timeout=100)
        until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), "its processes end")
        second.communicate()
    assert first.returncode == 1 and len(ranks) == 2
    (line,) = said(errors)
    assert line.startswith(
        "clipkit: process 0 of 4: the connection to the others broke, one of them has ended"
    )
    with nodes(small_dataset, [tmp_path] * 2, *SHORT) as agents:
        outputs = [each.communicate(timeout=280) for each in agents]
    assert [each.returncode for each in agents] == [0, 0], outputs
    assert losses(tmp_path) == losses(one)


@pytest.mark.parametrize(
    ("folder", "words", "expected"),
    [
        ("another", (), "--runs must be a folder that all machines share"),
        ("same", ("--log-every", "3"), "expected all processes to have the same settings and data"),
    ],
)
def test_machines_that_do_not_train_the_same_run_say_so(
    tiny_dataset: Path, tmp_path: Path, folder: str, words: tuple[str, ...], expected: str
) -> None:
    runs = [tmp_path / "same", tmp_path / folder]
    with nodes(tiny_dataset, runs, "--batch-size", "16", own=((), words)) as agents:
        outputs = [each.communicate(timeout=200)[1] for each in agents]
    assert [each.returncode for each in agents] == [1, 1]
    for errors in outputs:
        (line,) = said(errors)
        assert expected in line


@pytest.fixture
def cable() -> Iterator[tuple[list[str], list[str]]]:
    """Two network namespaces with a cable between them: the words before a command that runs in each."""
    names = [f"clipkit{os.getpid()}{end}" for end in "ab"]
    lines = [
        *(f"ip netns add {name}" for name in names),
        f"ip link add near netns {names[0]} type veth peer name far netns {names[1]}",
        f"ip -n {names[0]} addr add 10.77.0.1/24 dev near",
        f"ip -n {names[1]} addr add 10.77.0.2/24 dev far",
        *(f"ip -n {name} link set {device} up" for name in names for device in ("lo", "near", "far")),
    ]
    try:
        for line in lines:
            done = subprocess.run(line.split(), capture_output=True, text=True, check=False)
            if done.returncode and "Cannot find device" not in done.stderr:
                pytest.skip(f"no network namespaces here: {done.stderr}")
        yield tuple(  # type: ignore[misc]
            ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={device}"]
            for name, device in zip(names, ("near", "far"), strict=True)
        )
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def test_machines_with_a_cable_between_them_and_the_cable_pulled(
    small_dataset: Path, tmp_path: Path, one: Path, cable: tuple[list[str], list[str]]
) -> None:
    with nodes(small_dataset, [tmp_path] * 2, *SHORT, address="10.77.0.1", before=cable) as agents:
        outputs = [each.communicate(timeout=280) for each in agents]
    assert [each.returncode for each in agents] == [0, 0], outputs
    assert losses(tmp_path) == losses(one)

    pulled, words = tmp_path / "pulled", (*ENDLESS, "--timeout", "10")
    with nodes(small_dataset, [pulled] * 2, *words, address="10.77.0.1", before=cable) as agents:
        until(lambda: steps(pulled), "they train", seconds=200)
        subprocess.run(["ip", "-n", cable[0][3], "link", "set", "near", "down"], check=True)
        outputs = [each.communicate(timeout=200) for each in agents]
    assert [each.returncode for each in agents] == [1, 1]
    (line,) = said(outputs[0][1])
    # The other process of the first machine may give up a moment earlier, and end; torchrun shows its line.
    waited = "waited 10 s for another process, which hangs, is out of reach"
    broke = "the connection to the others broke"
    assert line.startswith((f"clipkit: process 0 of 4: {waited}", f"clipkit: process 0 of 4: {broke}"))
    assert waited in outputs[0][1]
