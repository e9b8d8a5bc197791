"""Whom an ingest believes: servers with a certificate that is valid, theirs, and of a known authority."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.serving import Server, answer, encoded, photo, raw
from tests.test_cli import clipkit

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
CERTIFICATES = {
    # name → the host that it is for, its days, its authority (itself if None)
    "good": ("localhost", 30, "known"),
    "of another host": ("other.example", 30, "known"),
    "expired": ("localhost", -1, "known"),
    "self-signed": ("localhost", 30, None),
    "of an unknown authority": ("localhost", 30, "unknown"),
}


def openssl(folder: Path, *words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], cwd=folder, check=True, capture_output=True)


def found_authority(folder: Path, name: str) -> None:
    """Make the key and the certificate of one that signs others."""
    words = [*NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
    openssl(
        folder, "req", "-x509", *words, "-addext", "keyUsage=critical,keyCertSign"
    )  # Python 3.13 asks for it


def certify(folder: Path, name: str, host: str, days: int, authority: str | None) -> ssl.SSLContext:
    """Make a key and a certificate; return what a server needs to speak with them."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    (folder / "extensions").write_text(f"subjectAltName=DNS:{host}\nauthorityKeyIdentifier=keyid\n")
    words = [*NEW_KEY, "-subj", f"/CN={host}", "-keyout", key]
    if authority is None:
        openssl(folder, "req", "-x509", *words, "-addext", f"subjectAltName=DNS:{host}", "-out", certificate)
    else:
        openssl(folder, "req", *words, "-out", "request")
        signing = ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial"]
        words = ["-extfile", "extensions", "-days", days, *signing, "-out", certificate]
        openssl(folder, "x509", "-req", "-in", "request", *words)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, Server]]:
    """One server for each certificate."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl here, which makes the certificates")
    for name in ("known", "unknown"):
        found_authority(tmp_path, name)
    with ExitStack() as running:
        made = {name: certify(tmp_path, name, *about) for name, about in CERTIFICATES.items()}
        yield {name: running.enter_context(Server(context).running()) for name, context in made.items()}


def became(out: Path) -> dict[str, tuple[str, int]]:
    """What each URL ended as, and in how many attempts."""
    rows = pq.read_table(out / "failures").to_pylist()
    samples = pq.read_table(out / "000000.parquet")["url"].to_pylist()
    return {row["url"]: (row["reason"], row["attempts"]) for row in rows} | dict.fromkeys(samples, ("ok", 1))


def test_only_valid_certificates_are_believed(
    servers: dict[str, Server], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "known.pem"))
    urls, expected = [], {}
    for name, each in servers.items():
        url = each.add("/picture", answer(encoded(photo()))).replace("http://127.0.0.1", "https://localhost")
        urls.append(url)
        expected[url] = ("ok", 1) if name == "good" else ("tls", 1)
    by_number = urls[0].replace("localhost", "127.0.0.1")
    moved = server.add("/", answer(b"", 302, {"Location": urls[1]}))
    expected |= {by_number: ("tls", 1), moved: ("tls", 1)}
    with socket.create_server(("127.0.0.1", 0)) as mute:  # it takes connections and never says anything
        expected[f"https://localhost:{mute.getsockname()[1]}/"] = ("timeout", 2)
        (tmp_path / "list.tsv").write_text("".join(f"x\t{url}\n" for url in expected))
        words = ["--allow-private-hosts", "--timeout", 2, "--retries", 1, "--out", tmp_path / "out"]
        finished = clipkit("ingest", "cc", tmp_path / "list.tsv", *words)
    assert finished.returncode == 0, finished.stderr
    assert became(tmp_path / "out") == expected
    assert [name for name, each in servers.items() if each.hits] == ["good"], "nothing is asked of others"


def test_connections_that_end_without_a_goodbye_end_as_over_http(
    servers: dict[str, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "known.pem"))
    picture, ok = encoded(photo()), b"HTTP/1.1 200 OK\r\n"
    endings = {
        raw(ok + b"\r\n" + picture): ("ok", 1),
        raw(ok + b"\r\n" + picture[:-999]): ("broken_image", 1),
        raw(ok + b"\r\n"): ("empty", 1),
        raw(ok): ("reset", 2),
        raw(b"HTTP/1.1 404 Not Found\r\n\r\n"): ("http_4xx", 1),
        raw(ok + b"Content-Length: 99999\r\n\r\n" + picture): ("truncated", 2),
        raw(ok + b"Transfer-Encoding: chunked\r\n\r\n9\r\n123"): ("truncated", 2),
    }
    server, expected = servers["good"], {}
    for number, (route, ending) in enumerate(endings.items()):
        expected[server.add(f"/{number}", route).replace("http://127.0.0.1", "https://localhost")] = ending
    (tmp_path / "list.tsv").write_text("".join(f"x\t{url}\n" for url in expected))
    words = ["--allow-private-hosts", "--retries", 1, "--out", tmp_path / "out"]
    finished = clipkit("ingest", "cc", tmp_path / "list.tsv", *words)
    assert finished.returncode == 0, finished.stderr
    assert became(tmp_path / "out") == expected


def test_proxies_that_speak_tls_are_believed_like_servers(
    servers: dict[str, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "known.pem"))
    (tmp_path / "list.tsv").write_text("x\thttp://nobody.invalid/picture\n")
    out = tmp_path / "out"
    for name in ("expired", "good"):
        servers[name].add("http://nobody.invalid/picture", answer(encoded(photo())))
        proxy = servers[name].url("").replace("http://127.0.0.1", "https://localhost")
        words = ["--proxy", proxy, "--retries", 0, "--out", out]
        finished = clipkit("ingest", "cc", tmp_path / "list.tsv", *words)
        if name == "good":
            assert finished.returncode == 0, finished.stderr
            assert "samples   1 (100.0%)" in finished.stdout
        else:
            assert "expected a proxy that lets us through at localhost" in finished.stderr
            assert "certificate" in finished.stderr and "check --proxy" in finished.stderr
            assert not (out / "failures").exists()
