import socket
from collections import Counter

from clipkit.ingest.resolve import Names


def test_a_name_is_asked_for_once_until_very_many_others_were() -> None:
    asked: Counter[str] = Counter()

    def resolve(host: str) -> list[str]:
        asked[host] += 1
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    names = Names(resolve)
    for host in ("first", "first", *map(str, range(10_000)), "9999", "first"):
        assert names.of(host, 1.0).result() == "dns_not_found"
    assert asked["9999"] == 1
    assert asked["first"] == 2, "forgotten meanwhile: a list of a billion URLs has names without number"
