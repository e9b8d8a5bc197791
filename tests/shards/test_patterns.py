"""Names of tars: braces as webdataset expands them, folders, globs, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.shardlists import expand_urls

from clipkit.errors import DatasetError
from clipkit.shards.patterns import expand_braces, tar_paths

LITERALS = st.text("ab/.- 0", max_size=4)
NUMBERS = st.integers(-9, 12).map(str) | st.sampled_from(["00", "007", "-03", "000"])
RANGES = st.builds("{{{}..{}}}".format, NUMBERS, NUMBERS) | st.builds(
    "{{{}..{}..{}}}".format, NUMBERS, NUMBERS, st.integers(-3, 9)
)
LETTERS = st.sampled_from(["{a..e}", "{e..a}", "{A..C}", "{c..c}"])
PATTERNS = st.recursive(
    LITERALS | RANGES | LETTERS,
    lambda inner: (
        st.builds("{{{},{}}}".format, inner, inner)
        | st.builds("{{{}}}".format, inner)
        | st.builds(str.__add__, inner, inner)
    ),
    max_leaves=4,
)


@given(PATTERNS)
@settings(deadline=None)
def test_braces_expand_as_in_webdataset(pattern: str) -> None:
    assert list(expand_braces(pattern)) == expand_urls(pattern)


def made(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return paths


def test_patterns_name_their_tars_in_order(tmp_path: Path) -> None:
    tars = made(tmp_path, *(f"{number:05d}.tar" for number in range(12)))
    made(tmp_path, "00000.parquet", "00000_stats.json", ".00000.tar.tmp", "._00000.tar", "notes.txt")
    assert tar_paths([f"{tmp_path}/{{00000..00011}}.tar"]) == tars
    assert tar_paths([str(tmp_path)]) == tars
    assert tar_paths([f"{tmp_path}/*.tar"]) == tars
    assert tar_paths([f"{tmp_path}/0000{{9..8}}.tar::{tars[3]}", str(tars[1])]) == [
        tars[9], tars[8], tars[3], tars[1]
    ]  # fmt: skip
    assert tar_paths([f"{tmp_path}/000{{0,1}}[13].tar"]) == [tars[1], tars[3], tars[11]]
    made(tmp_path / "more", "b.tar", "a.tar")
    assert [path.name for path in tar_paths([f"{tmp_path}/mo*"])] == ["a.tar", "b.tar"]


def test_a_file_may_be_called_like_a_pattern(tmp_path: Path) -> None:
    strange = made(tmp_path, "{0..9}.tar", "a*.tar", "a::b.tar", "ab.tar")
    assert [tar_paths([str(path)]) for path in strange] == [[path] for path in strange]


def test_missing_tars_are_counted_and_the_first_named(tmp_path: Path) -> None:
    made(tmp_path, *(f"{number:05d}.tar" for number in range(0, 100, 2)))
    with pytest.raises(DatasetError) as raised:
        tar_paths([f"{tmp_path}/{{00000..00099}}.tar"])
    assert str(raised.value) == (
        f"{tmp_path}/00001.tar, {tmp_path}/00003.tar, {tmp_path}/00005.tar and 47 more: expected 100 tars, "
        "found 50 of them missing; restore them, or name only those that are there"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pipe:cat x.tar", "pipe:cat x.tar: expected tars, found a command; those are never run"),
        ("https://h/*/{0..9}.tar", "last slash of an address, found one before; name the folder in full"),
        ("https://h/images/0*.tar", r"web servers list no folders; name each, or all by braces"),
        ("empty::pipe:cat x", "those are never run"),
        ("{0..3.tar", "a closing brace for each opening one, found none; add it"),
        ("nothing-*.tar", "expected tars of such names, found none; check the name"),
        ("empty", r"expected files ending in \.tar, found none in it; check the name"),
        ("x" * 5000, "found 1 of them missing"),
        ("", "expected the name of a tar, found an empty one"),
        ("empty::", "expected the name of a tar, found an empty one"),
        ("{0..999999999999}.tar", "expected at most 1,000 tars, found more"),
    ],
)
def test_what_names_no_tars_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clipkit.shards.patterns.MAX_TARS", 1000)
    with pytest.raises(DatasetError, match=message) as raised:
        tar_paths([source])
    assert "\n" not in str(raised.value)


def test_a_dataset_is_the_shards_of_its_index_and_has_to_be_finished(
    small_dataset: Path, tmp_path: Path
) -> None:
    assert [path.name for path in tar_paths([str(small_dataset)])] == [
        "000000.tar",
        "000001.tar",
        "000002.tar",
    ]
    copy = shutil.copytree(small_dataset, tmp_path / "copy")
    made(copy, "000003.tar")
    assert tar_paths([str(copy)]) == [copy / f"{number:06d}.tar" for number in range(3)]
    description = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps(description | {"totals": None}))
    with pytest.raises(DatasetError, match="expected a finished dataset, found one that was interrupted"):
        tar_paths([str(copy)])
