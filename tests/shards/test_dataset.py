import subprocess
import sys
from pathlib import Path

import pytest

from clipkit.errors import DatasetError
from clipkit.shards.dataset import (
    DatasetDescription,
    Pass,
    SourceFile,
    Totals,
    open_for_writing,
    read_dataset,
)


def described(**changes: object) -> DatasetDescription:
    source = SourceFile(name="list.tsv", bytes=3, sha256="ab" * 32)
    return DatasetDescription(sources=(source,), image={"image_size": 256}).model_copy(update=changes)


def test_a_dataset_is_created_continued_and_finished(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "dataset"
    with open_for_writing(directory, described()) as dataset:
        assert not dataset.complete
    with open_for_writing(directory, described()) as dataset:
        assert not dataset.complete
        dataset.begin(Pass(kind="list", records=3))
        dataset.finish(Totals(records=3, samples=2, failures=1, shards=1))
    assert read_dataset(directory).totals == Totals(records=3, samples=2, failures=1, shards=1)
    assert read_dataset(directory).description == described()


def test_a_dataset_is_not_made_inside_another(tmp_path: Path) -> None:
    with (
        open_for_writing(tmp_path, described()),
        pytest.raises(DatasetError, match="outside of datasets, found one inside"),
        open_for_writing(tmp_path / "parts", described()),
    ):
        pass
    assert not (tmp_path / "parts").exists()


def test_another_pass_makes_a_dataset_unfinished_until_its_end(tmp_path: Path) -> None:
    with open_for_writing(tmp_path, described()) as dataset:
        dataset.begin(Pass(kind="list", records=3))
        dataset.finish(Totals(records=3, samples=2, failures=1, shards=1))
        dataset.begin(Pass(kind="retry", records=1))
    again = read_dataset(tmp_path)
    assert (again.complete, again.listed) == (False, 3)
    assert [each.kind for each in again.passes] == ["list", "retry"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (described(image={"image_size": 224}), "image.image_size was 256, now 224"),
        (described(chunk_rows=10), "chunk_rows was 1000, now 10"),
        (described(sources=(SourceFile(name="list.tsv", bytes=3, sha256="cd" * 32),)), "sha256 of list.tsv"),
    ],
)
def test_another_description_is_refused_with_the_difference(
    tmp_path: Path, changed: DatasetDescription, named: str
) -> None:
    with open_for_writing(tmp_path, described()):
        pass
    with pytest.raises(DatasetError, match=named), open_for_writing(tmp_path, changed):
        pass


def test_of_other_files_without_number_a_few_are_named(tmp_path: Path) -> None:
    files = tuple(SourceFile(name=f"{n:05d}.tar", bytes=3, sha256="cd" * 32) for n in range(5000))
    with open_for_writing(tmp_path, described()):
        pass
    with pytest.raises(DatasetError, match=r"; and 4,992 differences more; choose another --out") as raised:
        open_for_writing(tmp_path, described(sources=files)).__enter__()
    assert "sha256 of 00000.tar was None, now" in str(raised.value) and len(str(raised.value)) < 2000


def test_other_content_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"thesis\.txt"), open_for_writing(tmp_path, described()):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with (
        pytest.raises(DatasetError, match="found a file"),
        open_for_writing(tmp_path / "thesis.txt", described()),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "another file of that name"),
        ('{"format": "clipkit-dataset", "version": 99}', "format version 1, found 99"),
        ('{"format": "clipkit-dataset", "version": 1, "sources": 3, "image": {}}', "sources"),
    ],
)
def test_a_damaged_description_gets_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=message) as raised:
        read_dataset(tmp_path)
    assert "\n" not in str(raised.value)


def test_what_a_kill_left_of_the_description_is_no_other_content(tmp_path: Path) -> None:
    (tmp_path / ".dataset.json.tmp").write_text("{")
    with open_for_writing(tmp_path, described()) as dataset:
        assert not dataset.complete
    assert {path.name for path in tmp_path.iterdir()} == {"dataset.json"}


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from clipkit.errors import DatasetError
from clipkit.shards.dataset import open_for_writing
from tests_description import description
try:
    with open_for_writing(Path({str(tmp_path / "dataset")!r}), description):
        print("got it")
except DatasetError as error:
    print(error)
"""
    (tmp_path / "tests_description.py").write_text(
        "from clipkit.shards.dataset import DatasetDescription\n"
        f"description = DatasetDescription.model_validate_json({described().model_dump_json()!r})\n"
    )
    command = [sys.executable, "-c", program]
    with open_for_writing(tmp_path / "dataset", described()):
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "another process is writing it" in second.stdout
    after = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert after.stdout == "got it\n"
