from hypothesis import given
from hypothesis import strategies as st

from clipkit.ingest.hosts import Hosts


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 3), st.data())
def test_every_item_enters_in_turn_and_never_too_many(
    names: list[str], share: int, data: st.DataObject
) -> None:
    hosts: Hosts[tuple[str, int]] = Hosts(share)
    inside: list[tuple[str, int]] = []
    entered: list[tuple[str, int]] = []

    def enter(item: tuple[str, int]) -> None:
        if hosts.enter(item[0], item):
            inside.append(item)
            entered.append(item)
        assert all([name for name, _ in inside].count(host) <= share for host in "abc")

    coming = [(name, number) for number, name in enumerate(names)]
    while coming or inside:
        if coming and (not inside or data.draw(st.booleans())):
            enter(coming.pop(0))
        else:
            host, _ = inside.pop(data.draw(st.integers(0, len(inside) - 1)))
            following = hosts.leave(host)
            if following and data.draw(st.booleans()):  # this one gave up meanwhile
                entered.append(following)
                following = hosts.following(host)
            if following:
                enter(following)
    assert sorted(number for _, number in entered) == list(range(len(names)))


def test_a_pause_hands_back_what_waits_and_ends() -> None:
    hosts: Hosts[str] = Hosts(1)
    assert hosts.enter("a", "first")
    assert not hosts.enter("a", "second")
    assert hosts.busiest() == "a"
    assert hosts.pause("a", 10.0, 3.0) == ["second"]
    assert hosts.busiest() is None
    assert hosts.pause("a", 5.0, 4.0) == [], "a shorter pause does not shorten it"
    assert (hosts.paused_until("a", 9.0), hosts.paused_until("b", 9.0)) == (10.0, None)
    assert hosts.leave("a") is None
    assert hosts.paused_until("a", 10.0) is None
    assert hosts.enter("a", "second")


def test_a_host_that_asks_for_a_pause_gets_a_quarter_and_then_more_and_more() -> None:
    hosts: Hosts[int] = Hosts(8)

    assert sum(hosts.enter("a", number) for number in range(8)) == 8
    assert hosts.leave("a") is None  # refused, as two more are
    hosts.pause("a", 2.0, 1.0)
    hosts.pause("a", 2.5, 1.1)
    assert [hosts.leave("a") for _ in range(7)] == [None] * 7
    assert sum(hosts.enter("a", number) for number in range(10)) == 2, "a quarter, once"
    assert (hosts.busiest(), hosts.is_slowed("a")) == ("a", True)
    assert [hosts.answered("a") for _ in range(3)] == [None, None, 2], "one more may enter"
    for _ in range(60):
        hosts.answered("a")
    all_behind = [hosts.enter("a", number) for number in range(10)]
    assert all_behind == [True] * 6 + [False] * 4 and not hosts.is_slowed("a")


def test_waiting_for_a_host_is_worth_it_while_it_gives_an_answer_a_second() -> None:
    hosts: Hosts[int] = Hosts(8)
    assert hosts.worth_waiting_until("a", 100.0, 60.0) == 160.0
    hosts.pause("a", 101.0, 100.0)
    for _ in range(10):
        hosts.answered("a")
    assert hosts.worth_waiting_until("a", 110.0, 60.0) == 170.0, "an answer a second"
    hosts.pause("a", 111.0, 110.0)
    for _ in range(10):
        hosts.answered("a")
    assert hosts.worth_waiting_until("a", 130.0, 60.0) == 170.0, "too few"
    hosts.pause("a", 140.0, 139.0)
    assert hosts.worth_waiting_until("a", 139.0, 60.0) == 170.0
    hosts.pause("a", 301.0, 300.0)
    assert hosts.worth_waiting_until("a", 300.0, 60.0) == 360.0, "what was long ago is forgotten"


def test_what_is_to_be_first_comes_before_what_waits() -> None:
    hosts: Hosts[str] = Hosts(1)
    assert hosts.enter("a", "inside")
    assert not hosts.enter("a", "behind")
    assert not hosts.enter("a", "a retry", first=True)
    assert (hosts.leave("a"), hosts.following("a"), hosts.following("a")) == ("a retry", "behind", None)


def test_hosts_that_once_asked_for_a_pause_are_forgotten() -> None:
    hosts: Hosts[int] = Hosts(8)
    assert hosts.enter("busy", 1)
    for second in range(10_000):
        hosts.pause("busy", second + 1.0, float(second))
        hosts.pause(f"host {second}", second + 1.0, float(second))
    kept = sum(hosts.is_slowed(f"host {second}") for second in range(10_000))
    assert kept < 200 and hosts.is_slowed("busy")
