"""Transfers whose bytes had to wait for memory."""

import gzip

import pytest

from clipkit.ingest.budget import Body, Budget
from clipkit.ingest.multi import Multi
from clipkit.ingest.rows import Failed
from clipkit.ingest.transfer import Transfer
from clipkit.ingest.urls import Target, request_target
from tests.ingest.test_fetch import CONFIG
from tests.serving import Route, Server, answer, raw

BOMB = answer(gzip.compress(bytes(3_000_000)), 200, {"Content-Encoding": "gzip"})
ENDLESS = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + bytes(9999))


@pytest.mark.parametrize(
    ("route", "ends_first", "reason"), [(BOMB, False, "too_large"), (ENDLESS, True, "timeout")]
)
def test_what_ends_badly_after_it_had_to_wait_has_its_reason(
    server: Server, route: Route, ends_first: bool, reason: str
) -> None:
    config = CONFIG.model_copy(update={"max_bytes": 1_000_000})
    budget = Budget(config.max_bytes, 0)
    other = Body(lambda: None)
    budget.grant(other, 1)
    target = request_target(server.add("/", route))
    assert isinstance(target, Target)
    with Multi(config, lambda host: config.connections_per_host) as multi:
        transfer = Transfer(config, budget)
        transfer.ask(target, 1.0 if ends_first else 20.0)
        multi.add(transfer)
        ended: list[tuple[Transfer, int, str]] = []
        while not (ended or (budget._waiting and not ends_first)):
            ended = multi.poll(0.1)
        budget.release(other)
        while not ended:
            ended = multi.poll(0.1)
    ((_, code, message),) = ended
    failed = transfer.finished(code, message)
    assert isinstance(failed, Failed) and failed.reason == reason
