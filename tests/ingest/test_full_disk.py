"""A disk that is full, since whenever, is told in one line, and with room made the same command goes on."""

import subprocess
from pathlib import Path

import pytest

from tests.datasets import contents
from tests.ingest.interrupting import Moment, Pictures, command, ended, started
from tests.serving import Server

RECORDS = 400
MOMENTS = {
    # when the disk becomes full → the file that cannot be written then
    Moment("mkdir", "/dataset$", before=False): "dataset.json",
    Moment("open", r"/parts/0000/\.0{8}\.tar"): "parts/0000/00000000.tar",
    Moment("replace", r"/parts/0000/\.0{8}\.tar"): "parts/0000/00000000.parquet",
    Moment("open", r"/\.000000\.tar"): "000000.tar",
    Moment("replace", r"/\.000000\.tar", before=False): "000000.parquet",
    Moment("replace", r"/\.000000\.parquet", before=False): "failures",
    Moment("replace", r"/failures/", before=False): "sizes.json",
    Moment("replace", r"/\.sizes\.json", before=False): "index.parquet",
    Moment("rmdir", "/parts$", before=False): "report.html",
    Moment("replace", r"/\.report\.html", before=False): "dataset.json",
}


def reference(path: Path, out: Path) -> dict[str, bytes]:
    code, _, errors = ended(started(command(path, out), path.parent))
    assert code == 0, errors
    return contents(out)


def assert_full(code: int, output: str, errors: str) -> str:
    """Exit code 1, and one line that tells of the disk, which is returned."""
    told = [line for line in errors.splitlines() if line.startswith("clipkit: ")]
    assert code == 1 and output == "" and len(told) == 1 and "Traceback" not in errors, errors
    assert "No space left on device" in told[0] and "run the same command again" in told[0]
    return told[0]


@pytest.mark.slow
def test_full_at_any_stage(server: Server, tiny_disk: Path, tmp_path: Path) -> None:
    listed = Pictures(server).listed(tmp_path / "list.tsv", RECORDS)
    expected = reference(listed, tmp_path / "reference")
    out = tiny_disk / "dataset"
    for moment, name in MOMENTS.items():
        told = assert_full(*ended(started(command(listed, out), tiny_disk, moment, "FILL")))
        assert told.startswith(f"clipkit: {out}/{name}"), (moment, told)
        assert not list(out.rglob("*.tmp")), "nothing is left half-written"
        (tiny_disk / "blocker").unlink()
    code, _, errors = ended(started(command(listed, out), tmp_path))
    assert code == 0 and f"ingest: {RECORDS} of {RECORDS} URLs" in errors, errors
    assert contents(out) == expected


@pytest.mark.slow
def test_any_size_of_disk(server: Server, tiny_disk: Path, tmp_path: Path) -> None:
    listed = Pictures(server).listed(tmp_path / "list.tsv", RECORDS)
    expected = reference(listed, tmp_path / "reference")
    failed = 0
    for kilobytes in range(8, 4000, 72):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(tiny_disk)], check=True)
        code, output, errors = ended(started(command(listed, tiny_disk / "dataset"), tmp_path))
        if code == 0:
            break
        assert_full(code, output, errors)
        failed += 1
    assert contents(tiny_disk / "dataset") == expected
    assert failed > 20
