"""Ray and Spark themselves: tasks that write into a bucket of a real S3 server make the bytes of a disk."""

import json
from pathlib import Path

import pytest

from tests.datasets import contents
from tests.ingest.engines.commands import finished, make_list
from tests.object_store import BUCKET, ObjectStore
from tests.serving import Server

RECORDS = 2900


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["ray", "spark"])
def test_tasks_write_into_a_bucket(engine: str, server: Server, store: ObjectStore, tmp_path: Path) -> None:
    listed = make_list(server, tmp_path, RECORDS)
    failed: set[str] = set()

    def once(method: str, path: str) -> str | None:
        is_first = method == "PUT" and "/parts/" in path and path not in failed
        failed.add(path)
        return "503" if is_first else None

    store.fault = once
    code, stdout, stderr = finished(engine, listed, f"s3://{BUCKET}/{tmp_path.name}", tmp_path)
    assert code == 0, stderr
    assert json.loads(stdout)["records"] == RECORDS
    store.fs.get(f"{BUCKET}/{tmp_path.name}", str(tmp_path / "copy"), recursive=True)
    code, _, stderr = finished("local", listed, tmp_path / "disk", tmp_path)
    assert code == 0, stderr
    assert contents(tmp_path / "copy") == contents(tmp_path / "disk")
    assert len(failed) >= 2 * 3, "each part, at least, was refused once"
