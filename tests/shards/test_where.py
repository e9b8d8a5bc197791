import resource
import time
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from clipkit.errors import ConfigError
from clipkit.shards.where import Where

MANIFESTS = pa.table(
    {
        "width": pa.array(range(50), pa.int32()),
        "caption": [None if row == 7 else f"hello {row}" for row in range(50)],
        "tags": [["a", "b"] if row % 2 else [] for row in range(50)],
        "row number": range(50),
        "Score": pa.array([row / 10 for row in range(50)], pa.float32()),
    }
)


def rows(condition: str) -> list[int]:
    where = Where(condition, MANIFESTS.schema)
    flags = where.of(MANIFESTS.select(where.columns))
    return [row for row in range(50) if flags[row]]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("width >= 45 and length(caption) > 7", range(45, 50)),
        ("WIDTH < 3 -- a remark", range(3)),
        ("caption is null", [7]),
        ("length(caption) > 0 and width in (6, 7, 8)", [6, 8]),
        ("manifests.width between 3 and 4 or caption ~ '^hello 1$'", [1, 3, 4]),
        ("list_contains(tags, 'a') and width < 4", [1, 3]),
        ("len(list_filter(tags, lambda tag: tag = 'b')) = 1 and width < 4", [1, 3]),
        ('"row number" = 12', [12]),
        ("score > 4.85", [49]),
        ("caption ilike 'HELLO 2_' and try_cast(caption as int) is null", range(20, 30)),
        ("case when width < 2 then true else null end", [0, 1]),
        ("strftime(make_date(2020, 1, 1), '%Y') = '2020' and width = 1", [1]),
        ("false", []),
        ("1 = 1) and (width = 2", [2]),
    ],
)
def test_a_condition_selects_rows(condition: str, expected: list[int]) -> None:
    assert rows(condition) == list(expected)


def test_the_time_zone_of_the_machine_is_nothing_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    noon = pa.array([datetime(2020, 1, 1, 12, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    found = []
    for zone in ("Pacific/Auckland", "America/Lima"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        where = Where("taken::date = '2020-01-01' and hour(taken) = 12", pa.schema([("taken", noon.type)]))
        found += where.of(pa.table({"taken": noon})).tolist()
    monkeypatch.undo()
    time.tzset()
    assert found == [True, True]


def test_a_column_that_the_engine_does_not_know_is_in_nobodys_way() -> None:
    strange = pa.table({"width": [1, 2], "huge": pa.array([1, 2], pa.decimal256(60))})
    where = Where("width > 1", strange.schema)
    assert where.of(strange.select(where.columns)).tolist() == [False, True]
    with pytest.raises(ConfigError):
        Where("huge > 1", strange.schema)


@pytest.mark.parametrize("condition", ["group is not null", "select % 2 = 0", "Order like 'a%'"])
def test_a_column_called_like_a_word_of_sql_wants_quotes(condition: str) -> None:
    manifests = pa.table({name: ["a", None] for name in ("group", "select", "Order", "width")})
    name = condition.split(" ", 1)[0]
    with pytest.raises(
        ConfigError, match=rf'the column {name} has the name of a word of SQL: write "{name}"$'
    ):
        Where(condition, manifests.schema)
    assert Where(f'"{name}" is null', manifests.schema).of(manifests).tolist() == [False, True]
    with pytest.raises(ConfigError, match=r"syntax error[^;]*$"):
        Where("width is is", manifests.schema)


def test_columns_whose_names_differ_in_case_alone_are_not_mixed_up() -> None:
    laion = pa.table({"width": [300, 300], "WIDTH": [2, 800], "key": ["a", "b"]})
    for condition, flags in (("WIDTH > 100", [False, True]), ("width > 100 and KEY = 'a'", [True, False])):
        where = Where(condition, laion.schema)
        assert where.of(laion.select(where.columns)).tolist() == flags
    for ambiguous in ("Width > 100", "WIDTH > 100 and width > 100"):
        with pytest.raises(ConfigError, match="of width and WIDTH it can name one, spelled as here"):
            Where(ambiguous, laion.schema)


def test_a_column_may_be_called_like_a_value_of_the_moment() -> None:
    posts = pa.table({"user": ["a", "b"], "post": [{"current_date": "x"}, {"current_date": "y"}]})
    where = Where("user = 'b' and post.current_date = 'y'", posts.schema)
    assert where.of(posts.select(where.columns)).tolist() == [False, True]


def test_a_column_may_be_called_as_the_table_is() -> None:
    listed = pa.table({"manifests": ["a", "b"]})
    assert Where("manifests = 'b'", listed.schema).of(listed).tolist() == [False, True]


def test_only_the_columns_that_are_read_are_named() -> None:
    assert Where("width > 3 and SCORE > 1", MANIFESTS.schema).columns == ["width", "Score"]
    assert Where("true", MANIFESTS.schema).columns == ["width"]


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("", "1 to 10,000 characters"),
        ("widht > 3", '"widht" not found'),
        ("width > 'x'", "'x'"),
        ("caption", "BOOL"),
        ("'", "unterminated"),
        ("width > 3; drop table manifests", ";"),
        ("width > 3) union select (1", "a statement"),
        ("width > 3) order by (1", "a statement"),
        ("true) select", "syntax error"),
        ("(select count(*) from '/etc/passwd') > 0", "subquery"),
        ("exists(from read_text('/etc/passwd'))", "subquery"),
        ("caption in (from read_csv('/etc/passwd'))", "subquery"),
        ("caption in (select filename from glob('/*'))", "subquery"),
        ("width > all(select 1)", "subquery"),
        ("array(select 1)[1] > 0", "subquery"),
        ("read_text('/etc/passwd') is null", "read_text()"),
        ("getenv('HOME') is null", "getenv()"),
        ("random() < 0.1", "random()"),
        ("now() > '2020-01-01'", "now()"),
        ("uuid() is null", "uuid()"),
        ("CURRENT_DATE > '2020-01-01'", "no column current_date"),
        ("localtimestamp > '2020-01-01'", "no column localtimestamp"),
        ("user = 'me'", "no column user"),
        ("manifests::varchar like '%hello%'", "no column manifests"),
        ("struct_extract(Manifests, 'row number_') < 5", "no column manifests"),
        ("age(timestamp '2020-01-01') > interval 1 year", "age()"),
        ("version() > 'v1'", "version()"),
        ("pg_sleep(1) is null", "pg_sleep()"),
        ("current_setting('threads') = '2'", "current_setting()"),
        ("count(*) > 1", "count_star()"),
        ("row_number() over () > 1", "window"),
        ("columns('w.*') > 3", "star"),
        ("? > 1", "parameter"),
        ("$1 > 1", "parameter"),
        ("4900 = " + "(" * 4900 + "1" + ")" * 4900, "depth"),
        ("not " * 2400 + "true", "depth"),
        ("length(repeat(caption, 100000000)) > 1", "Memory"),
        ("len(range(1000000000)) > width", "Memory"),
    ],
)
def test_whatever_is_no_condition_is_told_in_one_line(condition: str, why: str) -> None:
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(ConfigError) as raised:
        rows(condition)
    assert why in str(raised.value) and "\n" not in str(raised.value)
    assert "columns width, caption, tags, row number, Score; found" in str(raised.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == limit


def test_the_engine_has_no_files_even_if_it_is_asked_past_the_parser() -> None:
    engine = Where("true", MANIFESTS.schema)._engine
    for statement in (
        "FROM read_text('/etc/hostname')",
        "FROM '/etc/hostname'",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "ATTACH '/tmp/x.db'",
        "SET enable_external_access = true",
        "SET memory_limit = '50GB'",
        "INSTALL httpfs",
        "LOAD httpfs",
    ):
        with pytest.raises(Exception, match="Error"):
            engine.execute(statement)
