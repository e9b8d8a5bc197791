from clipkit.differences import differences


def test_each_value_that_differs_is_named_once_in_order() -> None:
    one = {"seed": 0, "image": {"size": 256, "quality": 95}, "limit": None, "kept": "a"}
    other = {"image": {"quality": 90, "size": 256}, "seed": 1, "kept": "a", "new": True}
    assert differences(one, other) == [
        "seed was 0, now 1",
        "image.quality was 95, now 90",
        "new was None, now True",
    ]
    assert differences(one, one) == []
    assert differences(one, other, verbs=("is", "not"), apart_from={"image.quality", "new"}) == [
        "seed is 0, not 1"
    ]


def test_a_value_of_another_kind_or_of_any_length_stays_in_the_line() -> None:
    (line,) = differences({"data": ["x" * 10_000, "\n"]}, {"data": {"samples": 3}})
    assert line.startswith("data was ['xxx") and line.endswith("…, now {'samples': 3}")
    assert len(line) < 200 and "\n" not in line
