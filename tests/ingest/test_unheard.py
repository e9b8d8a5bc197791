import resource
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from clipkit.errors import ConfigError
from clipkit.ingest.rows import Fetched
from clipkit.ingest.unheard import Unheard, allow_connections
from tests.ingest.test_fetch import CONFIG, outcomes
from tests.serving import Server, answer


def test_requests_that_wait_for_an_answer_hold_no_others_up(server: Server) -> None:
    released = threading.Event()
    in_time: list[bool] = []

    def wait(request: BaseHTTPRequestHandler) -> None:
        in_time.append(released.wait(8))
        answer(b"late")(request)

    def last(request: BaseHTTPRequestHandler) -> None:
        released.set()
        answer(b"last")(request)

    # That others answer tells that it is not the network: else no more would be begun.
    urls = [server.add("/answers", answer(b"at once")), *(server.add(f"/{each}", wait) for each in range(12))]
    ended = outcomes(
        [*urls, server.add("/last", last)], CONFIG.model_copy(update={"connections": 4, "timeout": 9})
    )
    assert in_time == [True] * 12
    assert {each.attempts for each in ended if isinstance(each, Fetched)} == {1}


def test_there_are_as_many_more_as_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def most(files: int) -> int:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
        requests = Unheard(10)
        requests.note([0.0] * 100, [], 2.0)
        return requests.count

    assert [most(files) for files in (100, 276, 296, 100_000, resource.RLIM_INFINITY)] == [0, 0, 10, 30, 30]
    requests = Unheard(10)
    requests.note([0.0, 0.5, 1.5], [0.0] * 100, 2.0)
    assert requests.count == 2 + 10


@pytest.mark.parametrize(("files", "advice"), [(300, ", or give --connections 22"), (64, "")])
def test_too_few_files_are_told(monkeypatch: pytest.MonkeyPatch, files: int, advice: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    with pytest.raises(ConfigError, match=rf"384 .* {files} are allowed: raise that \(ulimit -Hn\){advice}$"):
        allow_connections(64)
