"""What a repair left lies in the dataset, and so comes from whoever made that."""

import json
from pathlib import Path

import pytest

from clipkit.digests import file_sha256
from clipkit.errors import DatasetError
from clipkit.shards.dataset import DatasetDescription, open_for_writing
from clipkit.shards.staging import Staging

NAMES = ["dataset.json", "index.parquet"]


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    """New files of a dataset beside it, not yet committed."""
    (tmp_path / "dataset").mkdir()
    dataset = tmp_path / "dataset"
    staging = Staging(dataset, dataset / ".repair")
    staging.begin()
    for name in NAMES:
        (tmp_path / "dataset" / name).write_text("before")
        (staging.folder / name).write_text("after")
    return staging


def order(staging: Staging, *names: str) -> None:
    """Leave a commit that is to move these files, as a kill in its midst does."""
    guards = {name: [file_sha256(staging.folder.parent / name)] for name in NAMES}
    (staging.folder / "ready.json").write_text(json.dumps({"names": names, "guards": guards}))


def test_a_commit_begun_is_finished(staging: Staging) -> None:
    order(staging, *NAMES)
    assert staging.finish_earlier()
    assert [(staging.folder.parent / name).read_text() for name in NAMES] == ["after", "after"]
    assert not staging.folder.exists()


@pytest.mark.parametrize(
    "name", ["../planted", "failures/../../planted", "000000.tar", "failures/a", ".hidden"]
)
def test_a_strangers_commit_moves_nothing(staging: Staging, name: str) -> None:
    dataset = staging.folder.parent
    for folder in (dataset, staging.folder):
        (folder / "failures").mkdir()
    (staging.folder / name).write_text("planted")
    order(staging, *NAMES, name)
    assert not staging.finish_earlier()
    assert [(dataset / each).read_text() for each in NAMES] == ["before", "before"]
    assert not (dataset / name).exists()


@pytest.mark.parametrize("name", [".repair", "failures"])
def test_a_link_out_of_the_dataset_is_refused(tmp_path: Path, name: str) -> None:
    for folder in ("dataset", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("kept")
    (tmp_path / "dataset" / name).symlink_to("../elsewhere")
    with pytest.raises(DatasetError, match="expected a folder of the dataset, found a link to elsewhere"):
        Staging(tmp_path / "dataset", tmp_path / "dataset" / ".repair").finish_earlier()
    assert (tmp_path / "elsewhere" / "kept").exists()


@pytest.mark.parametrize("content", ["[" * 100_000, "", "[]", '{"names": 1, "guards": {}}'])
def test_what_is_no_order_moves_nothing(staging: Staging, content: str) -> None:
    (staging.folder / "ready.json").write_text(content)
    assert not staging.finish_earlier()
    assert (staging.folder.parent / "index.parquet").read_text() == "before"


def test_an_order_that_may_not_be_opened_is_not_thrown_away(staging: Staging) -> None:
    (staging.folder / "ready.json").symlink_to("ready.json")  # fails to open for anybody
    with pytest.raises(OSError, match="symbolic links"):
        staging.finish_earlier()
    assert (staging.folder / "index.parquet").read_text() == "after"


def test_what_is_half_moved_is_not_continued(staging: Staging) -> None:
    order(staging, *NAMES)
    description = DatasetDescription(sources=(), image={})
    with (
        pytest.raises(DatasetError, match="repair of it that was interrupted; finish it first"),
        open_for_writing(staging.folder.parent, description),
    ):
        pass
