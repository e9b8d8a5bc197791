"""What `clipkit evaluate` writes, and may not write over."""

import os
from pathlib import Path
from typing import Any

import pytest

from clipkit.errors import EvaluationError
from clipkit.evaluate.caption_sets import caption_sets
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.ground_truth import DEVKIT
from clipkit.evaluate.outputs import check_outputs, results_lines
from clipkit.evaluate.run import zero_shot_sets
from clipkit.evaluate.tables import CLASS_COLUMNS, PICTURE_COLUMNS
from tests.serving import encoded, photo
from tests.tars import write_tar


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").touch()
    return tmp_path / "models" / "model.pt"


@pytest.fixture
def pets(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "1.jpg").write_bytes(encoded(photo(8, 8, 1)))
    (tmp_path / "classes.csv").write_text("folder,names\ncat,cat\n")
    return {"folder": tmp_path / "pets", "classes": tmp_path / "classes.csv"}


def check(config: EvaluateConfig, model: Path) -> None:
    check_outputs(config, zero_shot_sets(config), caption_sets(config), model)


@pytest.mark.parametrize("option", ["per_class", "predictions", "results"])
def test_nothing_that_is_read_is_written_over(
    pets: dict[str, Any], model: Path, tmp_path: Path, option: str
) -> None:
    name = f"--{option.replace('_', '-')}"
    (tmp_path / "link.csv").symlink_to("classes.csv")
    for place, says in {
        tmp_path: "expected a file to write, found a folder",
        tmp_path / "no" / "p.csv": "expected a folder to write in, found no",
        tmp_path / "classes.csv": "expected a new file, found one that is needed",
        tmp_path / "link.csv": "expected a new file, found one that is needed",
        model: "expected a new file, found one that is needed",
        tmp_path / "pets" / "cat" / "1.jpg": "expected a file outside of what is evaluated, found one within",
        tmp_path / "pets" / "new.csv": "expected a file outside of what is evaluated, found one within",
    }.items():
        with pytest.raises(EvaluationError, match=f"{name} .*: {says}"):
            check(EvaluateConfig(**pets, **{option: place}), model)
    check(EvaluateConfig(**pets, **{option: tmp_path / "new.csv"}), model)
    check(EvaluateConfig(**pets, **{option: tmp_path / "pets.csv"}), model)


@pytest.mark.parametrize(
    ("option", "columns"), [("per_class", CLASS_COLUMNS), ("predictions", PICTURE_COLUMNS)]
)
def test_a_table_replaces_a_table_alone(
    pets: dict[str, Any], model: Path, tmp_path: Path, option: str, columns: tuple[str, ...]
) -> None:
    place = tmp_path / "thesis.csv"
    config = EvaluateConfig(**pets, **{option: place})
    for content in ("", ",".join(columns) + "\npets,1\n"):
        place.write_text(content)
        check(config, model)
    place.write_text("three years of work")
    with pytest.raises(EvaluationError, match="such a table to replace, found something else there"):
        check(config, model)


def test_results_are_added_to_results_alone(tmp_path: Path) -> None:
    place = tmp_path / "there"
    config = EvaluateConfig(results=place)
    line = b'{"kind": "zero-shot"}\n'
    for content in (b"", line, b"junk\n" + line, b'{"kind": "zero-sh', bytes(9)):
        place.write_bytes(content)
        results_lines(place, config)
    for content in (b"three years of work", b"PK\x03\x04" + bytes(99), b"[1]\n", encoded(photo(8, 8, 1))):
        place.write_bytes(content)
        with pytest.raises(EvaluationError, match="expected lines of JSON to add to, found something else"):
            results_lines(place, config)
        assert place.read_bytes() == content


def test_tables_spare_the_results(pets: dict[str, Any], model: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="found one that is needed"):
        check(EvaluateConfig(**pets, per_class=model.with_name("results.jsonl")), model)
    for pair in (("per_class", "predictions"), ("per_class", "results"), ("predictions", "results")):
        places = dict(zip(pair, (os.path.relpath(tmp_path / "x"), tmp_path / "x"), strict=True))
        with pytest.raises(ValueError, match=r"--\S+ and --\S+: expected two files, found one"):
            EvaluateConfig(**places)


def test_shards_of_a_pattern_and_the_devkit_beside_a_set_are_spared(model: Path, tmp_path: Path) -> None:
    for shard in ("a-0.tar", "a-1.tar"):
        sample = {"__key__": shard[2], "jpg": encoded(photo(8, 8, 1)), "txt": b"cat"}
        write_tar(tmp_path / shard, [sample])
    (tmp_path / "classes.csv").write_text("folder,names\ncat,cat\n")
    pattern = tmp_path / "a-{0..1}.tar"
    classified = {"folder": pattern, "classes": tmp_path / "classes.csv"}
    for inputs in (classified, {"val_shards": str(pattern)}):
        with pytest.raises(EvaluationError, match=r"a-1\.tar: expected a new file, found one that is needed"):
            check(EvaluateConfig(**inputs, results=tmp_path / "a-1.tar"), model)
    config = EvaluateConfig(imagenet_val=tmp_path / "a-0.tar", results=tmp_path / DEVKIT)
    with pytest.raises(EvaluationError, match="expected a new file, found one that is needed"):
        check_outputs(config, [], [], model)


def test_a_folder_of_models_that_cannot_be_written_to_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(EvaluationError, match=r"cannot be written, .*; --results FILE puts them elsewhere"):
        results_lines(tmp_path / "results.jsonl", EvaluateConfig())
    with pytest.raises(EvaluationError, match=r"cannot be written, [^;]*$"):
        results_lines(tmp_path / "results.jsonl", EvaluateConfig(results=tmp_path / "results.jsonl"))
