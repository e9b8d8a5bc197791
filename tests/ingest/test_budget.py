from hypothesis import given
from hypothesis import strategies as st

from clipkit.ingest.budget import Body, Budget


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=30),
    st.integers(0, 250),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_bodies_end_within_the_bound(sizes: list[int], extra: int, step: int, order: object) -> None:
    """Bodies of at most 100 bytes, growing in any order, all end, and never hold more than the total."""
    choice = getattr(order, "choice")  # noqa: B009 (hypothesis gives no public type)
    total = 100 + extra
    budget = Budget(max_bytes=100, total=total)
    active: set[int] = set(range(len(sizes)))
    paused: set[int] = set()
    finished: list[int] = []
    bodies = [Body(lambda number=number: paused.discard(number)) for number in range(len(sizes))]  # type: ignore[misc]
    while active or finished:
        growing = sorted(active - paused)
        assert growing or finished, "every body waits and none is held: nothing would ever go on"
        number = choice(growing + finished)
        if number in finished:
            finished.remove(number)
            budget.release(bodies[number])
            continue
        more = min(step, sizes[number] - bodies[number].size)
        if not budget.grant(bodies[number], more):
            paused.add(number)
        elif bodies[number].size == sizes[number]:
            active.remove(number)
            finished.append(number)
        assert budget.used == sum(body.size for body in bodies) <= total
    assert budget.used == 0


def test_a_body_that_gave_up_while_it_waited_is_not_resumed() -> None:
    resumed: list[str] = []
    budget = Budget(max_bytes=10, total=10)
    favoured, given_up, patient = (Body(lambda name=name: resumed.append(name)) for name in "abc")  # type: ignore[misc]
    assert budget.grant(favoured, 5)
    assert not budget.grant(given_up, 5)
    assert not budget.grant(patient, 5)
    budget.release(given_up)
    budget.release(favoured)
    assert resumed == ["c"]
