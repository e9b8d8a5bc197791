import hashlib
import json
from pathlib import Path

import pytest
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import (
    DEFAULT_TEMPLATES,
    ClassSet,
    imagenet_classes,
    read_classes,
    read_templates,
)
from clipkit.model.tokenizer import Tokenizer


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_imagenet_is_openais_list() -> None:
    classes = imagenet_classes()
    assert list(classes.names) == [(name,) for name in IMAGENET_CLASSNAMES]
    assert [template.replace("{}", "tench") for template in classes.templates] == [
        template("tench") for template in OPENAI_IMAGENET_TEMPLATES
    ]
    assert len(classes) == 1000
    assert len(set(classes.folders)) == 1000
    assert list(classes.folders) == sorted(classes.folders)


@pytest.mark.parametrize(
    ("wnid", "label", "name"),
    # ILSVRC2012_val_00000001 shows n01751748; the others are often quoted label indices.
    [
        ("n01440764", 0, "tench"),
        ("n01751748", 65, "sea snake"),
        ("n02504458", 386, None),
        ("n15075141", 999, None),
    ],
)
def test_imagenet_labels(wnid: str, label: int, name: str | None) -> None:
    classes = imagenet_classes()
    assert classes.folder_labels[wnid] == label
    if name:
        assert classes.names[label] == (name,)


def test_reads_a_class_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.csv", '\ufefffolder,names\n1f600,grinning face|grin\n\n1f1e6,"flag, Austria"\r\n'
    )
    classes = read_classes(path, name="emoji")
    assert classes == ClassSet(
        "emoji", ("1f600", "1f1e6"), (("grinning face", "grin"), ("flag, Austria",)), DEFAULT_TEMPLATES
    )
    assert classes.folder_labels == {"1f600": 0, "1f1e6": 1}


def test_columns_in_either_order(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", "names,folder\ncat|kitten,0\n")
    assert read_classes(path, name="x").names == (("cat", "kitten"),)


def test_columns_of_other_names(tmp_path: Path) -> None:
    by_wnid = write(tmp_path / "w.csv", "wnid,name\nn02504458,elephant\nn01440764,tench\n")
    assert read_classes(by_wnid, name="x").folders == ("n02504458", "n01440764")
    by_index = write(tmp_path / "i.csv", "index,names\n2,eel\n0,cat|kitten\n1,dog\n")
    classes = read_classes(by_index, name="x")
    assert (classes.folders, classes.names) == (("0", "1", "2"), (("cat", "kitten"), ("dog",), ("eel",)))
    for rows, says in (
        ("1,cat\n2,dog\n", "expected the indexes 0…1, found '2' and not '0'"),
        ("00,cat\n1,dog\n", "found '00' and not '0'"),
        ("0,cat\n0,dog\n", "'0' stands in more than one row"),
    ):
        with pytest.raises(EvaluationError, match=says):
            read_classes(write(tmp_path / "bad.csv", f"index,names\n{rows}"), name="x")
    with pytest.raises(EvaluationError, match="found wnid,index,names"):
        read_classes(write(tmp_path / "bad.csv", "wnid,index,names\nn1,0,cat\n"), name="x")


def test_prompts_are_all_names_in_all_templates() -> None:
    classes = ClassSet("x", ("a", "b"), (("cat", "{0.__class__}"), ("dog",)), ("a {}.", "{} and {}"))
    prompts, labels = classes.prompts()
    of_a = ["a cat.", "cat and cat", "a {0.__class__}.", "{0.__class__} and {0.__class__}"]
    assert prompts == [*of_a, "a dog.", "dog and dog"]
    assert labels == [0, 0, 0, 0, 1, 1]


def test_hashes_are_of_compact_json() -> None:
    classes = ClassSet("x", ("a", "b"), (("Käse", "cheese"), ("dog",)), ("a {}.",))
    names = json.dumps([["Käse", "cheese"], ["dog"]], ensure_ascii=False, separators=(",", ":"))
    assert classes.names_sha256 == hashlib.sha256(names.encode()).hexdigest()
    assert classes.templates_sha256 == hashlib.sha256(b'["a {}."]').hexdigest()
    assert classes.with_templates(("a {}!",)).templates_sha256 != classes.templates_sha256
    assert ClassSet("x", ("a", "b"), (("Käse",), ("cheese", "dog")), ()).names_sha256 != classes.names_sha256


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "expected the columns folder,names (or wnid or index,names), found nothing"),
        ("a,b\n1,2\n", "or wnid or index,names), found a,b"),
        ("folder,names,licence\na,cat,x\n", "found folder,names,licence"),
        ("folder,names\n", "no class below the header"),
        ("folder,names\na,cat\nb,dog\na,cow\n", "'a' stands in more than one row"),
        ("folder,names\na,cat|cat\n", "line 2: the name 'cat' occurs twice"),
        ("folder,names\ncat,cat\neel,cat\n", "'cat' is a name of 'cat' in line 2 and of 'eel' in line 3"),
        (
            "folder,names\na,cat|pet\nb,eel\n\nc,dog|pet\n",
            "'pet' is a name of 'a' in line 2 and of 'c' in line 5",
        ),
        ("folder,names\na,cat\nb,\n", "line 3: an empty name for 'b'"),
        ("folder,names\na,cat||kitten\n", "an empty name"),
        ("folder,names\n,cat\n", "line 2: expected the name of a class's folder"),
        ("folder,names\n../../etc,cat\n", "expected the name of a class's folder"),
        ("folder,names\n..,cat\n", "expected the name of a class's folder"),
        ("folder,names\na,flag, Austria\n", "line 2: expected 2 fields, found 3"),
        ('folder,names\na,"cat\n', "not readable as CSV"),
        (b"folder,names\na,\xff\xfe\n", "not text in UTF-8"),
    ],
)
def test_bad_class_files_get_one_line(tmp_path: Path, content: str | bytes, says: str) -> None:
    path = write(tmp_path / "classes.csv", content)
    with pytest.raises(EvaluationError) as caught:
        read_classes(path, name="x")
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_class_file(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="class file cannot be read: No such file"):
        read_classes(tmp_path / "none.csv", name="x")


def test_reads_templates(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "a photo of a {}.\n\n  a drawing of a {}.\r\n")
    assert read_templates(path) == ("a photo of a {}.", "a drawing of a {}.")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("\n \n", "no template"),
        ("a {}\nno slot\n", "line 2: no {} for the class name in 'no slot'"),
        ("a {}\nthe {}\na {}\n", "'a {}' occurs more than once"),
    ],
)
def test_bad_template_files(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        read_templates(write(tmp_path / "t.txt", content))
    assert says in str(caught.value)


def test_names_that_are_one_prompt_are_told_and_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "classes.csv", "folder,names\na,Tabby cat\nb,dog|tabby  cat\nc,tabby_cat\n")
    assert read_classes(path, name="pets").names == (("Tabby cat",), ("dog", "tabby  cat"), ("tabby_cat",))
    (line,) = capsys.readouterr().err.splitlines()
    assert "classes.csv: 'Tabby cat' of 'a' and 'tabby  cat' of 'b' are one prompt to a model: " in line
    tokens = Tokenizer(77)(["a photo of a Tabby cat.", "a photo of a tabby  cat.", "a photo of a tabby_cat."])
    assert (tokens[0] == tokens[1]).all() and (tokens[0] != tokens[2]).any()
    read_classes(write(path, "folder,names\na,Cat|cat\nb,dog\n"), name="pets")
    assert capsys.readouterr().err == ""
