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
    assert hosts.refusing_since("a") == 3.0
    hosts.answered("a")
    assert hosts.refusing_since("a") is None
    assert hosts.leave("a") is None
    assert hosts.paused_until("a", 10.0) is None
    assert hosts.enter("a", "second")


def test_what_is_to_be_first_comes_before_what_waits() -> None:
    hosts: Hosts[str] = Hosts(1)
    assert hosts.enter("a", "inside")
    assert not hosts.enter("a", "behind")
    assert not hosts.enter("a", "a retry", first=True)
    assert (hosts.leave("a"), hosts.following("a"), hosts.following("a")) == ("a retry", "behind", None)
