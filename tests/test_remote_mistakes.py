"""What is given wrongly of a store, by the command line: one clear line each, and exit code 1."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from tests.object_store import BUCKET, Fault, ObjectStore


class Mistake(NamedTuple):
    """Words of a command, what is told, what the environment has or lacks, what befalls requests."""

    words: tuple[str, ...]
    told: str
    environment: Mapping[str, str | None] = MappingProxyType({})
    fault: Fault | None = None


def read_only(method: str, path: str) -> str | None:
    return "403" if method in ("PUT", "POST", "DELETE") else None


INFO = ("shards", "info", f"s3://{BUCKET}/nothing")
INGEST = ("ingest", "cc", "{folder}/list.tsv", "--allow-private-hosts", "--out")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE")
NO_KEYS = dict.fromkeys(KEYS) | {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_CONFIG_FILE": "/dev/null"}
MISTAKES = {
    "endpoint": Mistake(
        INFO,
        r"nothing/index\.parquet: expected to read it, found: Could not connect to the endpoint URL: "
        r'"http://no-such-host\.invalid/.*"; is the address right, and the network up\?',
        {"AWS_ENDPOINT_URL": "http://no-such-host.invalid"},
    ),
    "port": Mistake(
        INFO,
        r"Could not connect to the endpoint URL: .*; tried \d times in \d s: is the address right",
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
    ),
    "bucket": Mistake(
        ("shards", "info", "s3://no-such-bucket/x"),
        r"no-such-bucket/x/index\.parquet: expected to read it, found: HTTP 404 .*: the bucket does not",
    ),
    "keys": Mistake(
        ("shards", "info", f"s3://{BUCKET}/private"),
        r"private/index\.parquet: expected to read it, found: HTTP 403 .*; no keys were found",
        NO_KEYS,
    ),
    "profile": Mistake(INFO, r"The config profile \(nobody\) could not be found", {"AWS_PROFILE": "nobody"}),
    "dataset": Mistake(
        INFO, r"nothing: expected a dataset directory with index\.parquet, found no such direct"
    ),
    "folder": Mistake(
        ("shards", "info", f"s3://{BUCKET}/folder"),
        r"folder: expected a dataset directory with index\.parquet, found none; give the directory",
    ),
    "verify": Mistake(
        ("shards", "verify", f"s3://{BUCKET}/nothing"), r"nothing: expected a dataset directory"
    ),
    "train": Mistake(
        ("train", "--shards", f"s3://{BUCKET}/nothing", "--runs", "{folder}/runs"),
        r"nothing: expected a dataset directory with index\.parquet, found no such directory",
    ),
    "read-only": Mistake(
        (*INGEST, f"s3://{BUCKET}/new"),
        r"new/dataset\.json: expected to write it, found: HTTP 403 \(AccessDenied: .*\); are the right keys",
        fault=read_only,
    ),
    "in use": Mistake(
        (*INGEST, f"s3://{BUCKET}/private"),
        r"private: expected a new or empty directory or a clipkit dataset, found 'index\.parquet'",
    ),
    "busy": Mistake(
        INFO, r"HTTP 503 .*; tried \d times in \d+ s: run the same command", fault=lambda method, path: "503"
    ),
}
SHOWN = ("keys", "read-only")  # the others are slow, with all that a process loads


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHOWN else pytest.mark.slow) for name in MISTAKES]
)
def test_a_mistake_is_one_line(store: ObjectStore, tmp_path: Path, name: str) -> None:
    mistake = MISTAKES[name]
    store.fs.pipe(f"{BUCKET}/private/index.parquet", b"content")
    store.fs.pipe(f"{BUCKET}/folder/readme.txt", b"content")
    (tmp_path / "list.tsv").write_text("caption\thttp://127.0.0.1:1/x.jpg\n")
    store.fault = mistake.fault or store.fault
    environment = os.environ | dict(mistake.environment)
    done = subprocess.run(
        [sys.executable, "-m", "clipkit", *(word.format(folder=tmp_path) for word in mistake.words)],
        capture_output=True,
        text=True,
        env={variable: value for variable, value in environment.items() if value is not None},
    )
    *before, last = done.stderr.splitlines()
    assert done.returncode == 1 and done.stdout == "", done.stderr
    assert last.startswith("clipkit: ") and re.search(mistake.told, last), last
    assert all("; trying again for up to " in line for line in before), "what is waited for is said"
