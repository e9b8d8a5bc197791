"""What stops an ingest before its first request, and what does not."""

import errno
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from clipkit.errors import NetworkError
from clipkit.ingest.conceptual_captions import conceptual_captions
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.preflight import CONTROL, HOSTS, preflight
from clipkit.ingest.rows import UrlRow
from clipkit.ingest.run import ingest
from tests.serving import Server, answer, encoded, photo

CONFIG = IngestConfig()
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
DOWN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
PUBLIC = "93.184.215.14"


def rows(*urls: str) -> list[UrlRow]:
    return [UrlRow("list", number, url, "") for number, url in enumerate(urls)]


NAMED = rows(*(f"http://host{number}.test/{number}" for number in range(50)))


def resolver(answers: dict[str, str | OSError], default: str | OSError) -> Callable[[str], list[str]]:
    def resolve(host: str) -> list[str]:
        found = answers.get(host, default)
        if isinstance(found, OSError):
            raise found
        return [found]

    return resolve


def connector(outcome: OSError | None, asked: list[tuple[str, int]]) -> Callable[[str, int, float], None]:
    def connect(address: str, port: int, seconds: float) -> None:
        asked.append((address, port))
        if outcome:
            raise outcome

    return connect


@pytest.mark.parametrize("error", [UNKNOWN, DOWN], ids=["says unknown to all", "does not answer"])
def test_a_broken_resolver_stops_it(error: OSError) -> None:
    with pytest.raises(NetworkError, match=r"10 hosts \(host0.test, host1.test, host2.test, …\)"):
        preflight(NAMED, CONFIG, resolver({}, error), connector(None, []))


def test_a_list_that_begins_with_dead_names_does_not() -> None:
    preflight(NAMED, CONFIG, resolver({CONTROL: PUBLIC}, UNKNOWN), connector(None, []))
    preflight(NAMED, CONFIG, resolver({"host7.test": PUBLIC}, DOWN), connector(None, []))


def test_no_network_stops_it() -> None:
    unreachable = OSError(errno.ENETUNREACH, "Network is unreachable")
    for some, which in ((NAMED, f"the first {HOSTS} hosts"), (NAMED[:1], "the only host")):
        with pytest.raises(NetworkError, match=f"expected a network, found no way from here to {which} "):
            preflight(some, CONFIG, resolver({}, PUBLIC), connector(unreachable, []))


def test_one_family_of_addresses_is_enough() -> None:
    def connect(address: str, port: int, seconds: float) -> None:
        if ":" in address:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    preflight(NAMED, CONFIG, lambda host: [*(f"2600::{n}" for n in range(1, 9)), PUBLIC], connect)


def test_silence_of_many_hosts_stops_it_and_of_a_few_does_not() -> None:
    asked: list[tuple[str, int]] = []
    with pytest.raises(NetworkError, match="--proxy"):
        preflight(NAMED, CONFIG, resolver({}, PUBLIC), connector(TimeoutError(), asked))
    assert asked == [(PUBLIC, 80)] * HOSTS
    preflight(NAMED[:4], CONFIG, resolver({}, PUBLIC), connector(TimeoutError(), []))


def test_a_refusal_shows_that_the_network_works() -> None:
    refusal = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    preflight(NAMED, CONFIG, resolver({}, PUBLIC), connector(refusal, []))


def test_private_addresses_are_not_connected_to() -> None:
    asked: list[tuple[str, int]] = []
    preflight(NAMED, CONFIG, resolver({}, "10.0.0.1"), connector(TimeoutError(), asked))
    assert asked == []


def test_rows_without_a_host_are_passed_over() -> None:
    asked: list[tuple[str, int]] = []
    some = [
        UrlRow("list", 0, "", "", "no URL"),
        *rows("ftp://x/", "https://[2600::1]:8443/", "https://a.test/"),
    ]
    preflight(some, CONFIG, resolver({}, PUBLIC), connector(TimeoutError(), asked))
    assert sorted(asked) == [(PUBLIC, 443), (PUBLIC, 8443)]
    preflight(rows("x"), CONFIG, resolver({}, DOWN), connector(None, []))


def test_an_ingest_through_a_proxy_that_is_not_there_marks_nothing(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text(f"gone\t{server.add('/', answer(encoded(photo())))}\n")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        config = CONFIG.model_copy(update={"proxy": f"http://user:secret@127.0.0.1:{port}", "workers": 1})
        with pytest.raises(NetworkError, match=f"expected a proxy at 127.0.0.1:{port}") as raised:
            ingest(conceptual_captions([path]), tmp_path / "dataset", config)
    assert "secret" not in str(raised.value)
    direct = config.model_copy(update={"proxy": None, "allow_private_hosts": True})
    result = ingest(conceptual_captions([path]), tmp_path / "dataset", direct)
    assert (result.records, result.samples, result.failures) == (1, 1, {})


@pytest.mark.parametrize("login", ["", "user:secret@"])
@pytest.mark.parametrize(("scheme", "asked"), [("http", f"http://{CONTROL}/"), ("https", f"{CONTROL}:443")])
def test_an_ingest_through_a_proxy_that_refuses_our_name_marks_nothing(
    server: Server, tmp_path: Path, login: str, scheme: str, asked: str
) -> None:
    server.add(f"http://{CONTROL}/", answer(b""))  # it may want one only for what it cannot see
    server.add(asked, answer(b"", 407, {"Proxy-Authenticate": "Basic realm=x"}))
    path = tmp_path / "list.tsv"
    path.write_text(f"never asked\t{scheme}://host.test/\n")
    proxy = server.url("").replace("http://", f"http://{login}")
    config = CONFIG.model_copy(update={"proxy": proxy, "workers": 1})
    with pytest.raises(NetworkError, match=r"wants a name and a password, or others \(HTTP 407\)") as raised:
        ingest(conceptual_captions([path]), tmp_path / "dataset", config)
    assert "secret" not in str(raised.value)
    assert not list((tmp_path / "dataset").glob("failures/*"))


NAME_WANTED = "wants a name and a password.*socks5h://NAME:PASSWORD"


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([b"\x05\xff"], NAME_WANTED),
        ([b"\x05\x02", b"\x01\x01"], NAME_WANTED),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "check --proxy"),
        ([b""], "check --proxy"),
    ],
    ids=["not without a name", "not with this one", "no SOCKS", "nothing"],
)
def test_a_socks_proxy_that_lets_nobody_through_stops_it(answers: list[bytes], found: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def work() -> None:
            listening.accept()[0].close()  # whether there is one at all
            connection, _ = listening.accept()
            with connection:
                for each in answers:
                    connection.recv(100)
                    connection.sendall(each)

        thread = threading.Thread(target=work)
        thread.start()
        config = CONFIG.model_copy(update={"proxy": f"socks5h://127.0.0.1:{listening.getsockname()[1]}"})
        with pytest.raises(NetworkError, match=found):
            preflight(NAMED, config)
        thread.join()


@pytest.mark.parametrize(
    "proxy",
    ["h:1", "http://h:0", "http://h:65536", "http://h..i:1", "http://[zz]:1", "http://::1:1", "http://u@:1"],
)
def test_what_is_no_proxy_is_refused_as_a_setting(proxy: str) -> None:
    with pytest.raises(ValidationError, match="expected http://HOST:PORT"):
        IngestConfig(proxy=proxy)
    assert IngestConfig(proxy="socks5h://u:p@[::1]:1/").proxy
