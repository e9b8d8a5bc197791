"""Which addresses a whole ingest connects to, in an internet where every address is there to be reached."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from tests.ingest.own_internet import PUBLIC, ROUTES, SILENT, WELL, ZONE

PUBLIC_URLS = [
    "http://public.example/",
    "http://six.example/",
    "http://mixed.example/",
    "http://public.example/to/http://six.example/",
]
PRIVATE = [
    "127.0.0.1", "127.1.2.3", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "0x7f.1", "0177.0.0.1",
    "2130706433", "localhost", "[::1]", "[fd00::1]", "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]",
    "[2002:a00:1::1]",
]  # fmt: skip
NEVER = [
    "169.254.169.254", "169.254.0.1", "100.100.100.200", "224.0.0.1", "[fe80::1]", "[fd00:ec2::254]",
    "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[ff02::1]", "[64:ff9b:1::1]",
]  # fmt: skip
NAMED_NEVER = [name for name in ZONE if "metadata" in name or "multicast" in name]
NAMED_PRIVATE = [name for name in ZONE if name not in NAMED_NEVER and f"http://{name}/" not in PUBLIC_URLS]
UNANSWERED = {
    "http://no-such.example/": "dns_not_found",
    "http://public.example/to/http://nowhere.example/": "dns_not_found",
    "http://no..name.example/": "dns_not_found",
    "http://broken.example/": "dns_failed",
    "http://silent.example/": "timeout",
}


def urls(hosts: list[str]) -> list[str]:
    """Straight to the hosts, and by way of a public one."""
    return [f"{way}http://{host}/" for host in hosts for way in ("", "http://public.example/to/")]


class Visit(NamedTuple):
    """What one ingest connected to, how often it asked for names, and what became of its URLs: "ok" or the
    failure.
    """

    tried: set[str]
    asked: dict[str, int]
    became: dict[str, str]
    rows: list[dict[str, Any]]


def visit(listed: list[str], folder: Path, *options: str) -> Visit:
    (folder / "list.tsv").write_text("".join(f"x\t{url}\n" for url in listed))
    command = [sys.executable, "-m", "clipkit", "ingest", "cc", str(folder / "list.tsv"), *options]
    command += ["--out", str(folder / "out"), "--timeout", "2", "--deadline", "6", "--retries", "1"]
    proxy = dict.fromkeys(
        ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"), f"http://{PUBLIC}:3128"
    )
    told = in_own_internet(command, folder, proxy)
    assert told["code"] == 0, told["errors"]
    failed = folder / "out" / "failures"
    failures = pq.read_table(failed).to_pylist() if failed.exists() else []
    samples = pq.read_table(folder / "out" / "000000.parquet")["url"].to_pylist()
    became = dict.fromkeys(samples, "ok") | {row["url"]: row["reason"] for row in failures}
    tried = {f"{address} {port}" for address, port in told["tried"]}
    return Visit(tried, told["asked"], became, failures)


def in_own_internet(command: list[str], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What a command said and did: `code`, `errors`, the addresses `tried`, the names `asked` for."""
    own_internet = [sys.executable, "-m", "tests.ingest.own_internet", str(folder), *command]
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    unshare = ["unshare", *rights, "--mount", "--net", "sh", "-c"]
    try:
        possible = subprocess.run([*unshare, ROUTES], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if possible.returncode:
        pytest.skip(f"no namespace of its own here: {possible.stderr.strip()}")
    finished = subprocess.run(
        [*unshare, f"{ROUTES} && exec {shlex.join(own_internet)}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, **environment},
    )
    told: dict[str, Any] = json.loads(finished.stdout)
    return told


def test_only_public_addresses_are_ever_connected_to(tmp_path: Path) -> None:
    # The first name is looked up twice, to see whether there is a network, and to fetch.
    refused = ["http://rebinding.example/", *urls(PRIVATE + NEVER + NAMED_PRIVATE + NAMED_NEVER)]
    seen = visit([*refused, *PUBLIC_URLS, *UNANSWERED], tmp_path)
    assert seen.tried == {f"{PUBLIC} 80", "2600::1 80"}
    assert seen.became == dict.fromkeys(PUBLIC_URLS, "ok") | UNANSWERED | dict.fromkeys(refused, "address")
    assert {row["attempts"] for row in seen.rows if row["reason"] == "address"} == {1}
    assert all("is not a public address" in row["detail"] for row in seen.rows if row["reason"] == "address")


def test_private_addresses_can_be_allowed_but_link_local_ones_cannot(tmp_path: Path) -> None:
    allowed, refused = urls(PRIVATE + NAMED_PRIVATE), urls(NEVER + NAMED_NEVER)
    seen = visit([*PUBLIC_URLS, *allowed, *refused], tmp_path, "--allow-private-hosts")
    assert seen.became == dict.fromkeys([*PUBLIC_URLS, *allowed], "ok") | dict.fromkeys(refused, "address")
    assert {"127.0.0.1 80", "10.0.0.1 80", "::1 80", "fd00::1 80", "2002:a00:1::1 80"} <= seen.tried
    never = ("169.254.", "100.100.", "224.", "fe80:", "fd00:ec2:", "64:ff9b::a9fe", "2002:a9fe", "ff02:")
    assert not [address for address in seen.tried if address.startswith(never)]


def test_a_name_is_looked_up_once_and_not_for_every_url(tmp_path: Path) -> None:
    names = ["public.example", "six.example"]
    listed = [f"http://{name}/{number}" for number in range(150) for name in names]
    seen = visit(listed, tmp_path, "--workers", "1", "--connections", "2")
    assert seen.became == dict.fromkeys(listed, "ok")
    # For IPv4 and IPv6 each: to see whether there is a network, and for those that start at the same time; an
    # answer that comes late is asked for again.
    assert set(seen.asked) == set(names)
    assert all(2 <= count <= 2 * 2 * (1 + 2) for count in seen.asked.values()), seen.asked


def test_names_whose_servers_are_silent_keep_no_others_waiting(tmp_path: Path) -> None:
    ways = ["http://straight-{}/", "http://public.example/to/http://by-way-{}/"]
    well = [way.format(f"{number}{WELL}") for way in ways for number in range(30)]
    silent = [way.format(f"{number}.{SILENT}") for way in ways for number in range(25)]
    seen = visit([*well[:10], *silent, *well[10:]], tmp_path, "--workers", "1")
    assert seen.became == dict.fromkeys(well, "ok") | dict.fromkeys(silent, "timeout")


WITH_IMG2DATASET = """
import sys
from pathlib import Path
from clipkit.errors import NetworkError
from clipkit.ingest.conceptual_captions import conceptual_captions
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.engines.img2dataset import with_img2dataset
from clipkit.ingest.run import ingest
source = conceptual_captions([Path(sys.argv[1])])
try:
    ingest(source, Path(sys.argv[2]), IngestConfig(), engine=with_img2dataset)
except NetworkError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("program", [["-m", "clipkit", "ingest", "cc"], ["-c", WITH_IMG2DATASET]])
def test_a_broken_name_resolver_marks_nothing(tmp_path: Path, program: list[str]) -> None:
    (tmp_path / "list.tsv").write_text("x\thttp://broken.example/\n")
    words = [str(tmp_path / "list.tsv"), *(["--out"] if program[0] == "-m" else []), str(tmp_path / "out")]
    told = in_own_internet([sys.executable, *program, *words], tmp_path, {})
    assert told["code"] == 1 and not (tmp_path / "out" / "failures").exists()
    assert "expected a working name resolver, found that neither the only host" in told["errors"]
