from http.server import BaseHTTPRequestHandler

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.fetch import fetch
from clipkit.ingest.rows import Failed, Fetched, UrlRow
from clipkit.ingest.silence import Silence
from tests.serving import Server, answer


def test_urls_of_a_silent_host_do_not_each_hold_a_connection(server: Server) -> None:
    def slowly(request: BaseHTTPRequestHandler) -> None:
        server.stopping.wait(0.25)
        answer(b"x")(request)

    server.add("/good", slowly)
    server.add("/silent", server.silence)
    urls = [f"http://localhost:{server.port}/silent", server.url("/good")] * 60
    config = IngestConfig(allow_private_hosts=True, workers=1, timeout=1, deadline=20, retries=1, per_host=2)
    rows = [(number, UrlRow("list", number, url, "")) for number, url in enumerate(urls)]
    ended = dict(filter(None, fetch(rows, config)))
    silent = [each for each in ended.values() if isinstance(each, Failed)]
    assert all(isinstance(ended[number], Fetched) for number in range(1, len(urls), 2))
    assert {each.reason for each in silent} == {"timeout"}
    assert sum(each.attempts == 0 for each in silent) > 30, len(silent)


def silence_beside_others() -> Silence:
    silence = Silence(timeout=10, patience=60)
    for second in range(200):
        silence.answered("other", float(second))
    return silence


def test_a_host_that_never_answered_is_silent_after_some_requests_and_asked_now_and_then() -> None:
    silence = silence_beside_others()
    for begun in range(160, 170):
        silence.unanswered("dead", begun, begun + 10)
    assert not silence.is_expected("dead", 180), "it may be for a moment"
    silence.unanswered("dead", 181, 191)
    assert silence.is_expected("dead", 192) and not silence.is_expected("other", 192)
    assert not silence.is_expected("dead", 212), "once more"
    silence.asked("dead", 212)
    assert silence.is_expected("dead", 213), "by no other meanwhile"
    silence.answered("dead", 214)
    assert not silence.is_expected("dead", 215)


def test_a_few_requests_do_not_tell_however_long_ago_the_first_was() -> None:
    silence = silence_beside_others()
    for begun in (150, 165, 180):
        silence.unanswered("dead", begun, begun + 10)
    assert not silence.is_expected("dead", 190)


def test_a_host_that_has_answered_is_given_more_time() -> None:
    silence = silence_beside_others()
    silence.answered("large", 100)
    for begun in range(101, 190):
        silence.answered("other", begun + 10)
        silence.unanswered("large", begun, begun + 10)
        assert silence.is_expected("large", begun + 10) == (begun + 10 - 101 > 60)


def test_requests_do_not_count_while_the_network_is_silent() -> None:
    silence = silence_beside_others()
    for begun in range(211, 230):
        silence.unanswered("dead", begun, begun + 10)
    assert not silence.is_expected("dead", 240)
    silence.answered("other", 241)
    for begun in range(230, 240):
        silence.unanswered("dead", begun, begun + 12)
    assert not silence.is_expected("dead", 252), "these began before the others were heard again"


def test_hosts_are_forgotten_when_there_are_very_many() -> None:
    silence = silence_beside_others()
    for number in range(10_000):
        silence.answered(f"host {number}", 200)
    assert silence.has_answered("host 9999") and not silence.has_answered("host 0")
