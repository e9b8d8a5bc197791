from pathlib import Path

import open_clip
import pytest

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import imagenet_classes
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.run import zero_shot_sets
from clipkit.evaluate.templates import templates_of


def test_the_named_lists_are_those_that_open_clip_carries() -> None:
    for name, theirs in (
        ("openai-7", open_clip.SIMPLE_IMAGENET_TEMPLATES),
        ("openai-80", open_clip.OPENAI_IMAGENET_TEMPLATES),
    ):
        assert [each.replace("{}", "ox") for each in templates_of(name)] == [each("ox") for each in theirs]
    assert set(templates_of("openai-7")) < set(imagenet_classes().templates)


def test_a_name_means_the_list_though_a_file_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai-7").write_text("a file's {}\n")
    assert len(templates_of("openai-7")) == 7
    assert templates_of("./openai-7") == ("a file's {}",)
    by_path = EvaluateConfig(templates=Path("openai-7"))
    assert by_path.templates == str(tmp_path / "openai-7")
    with pytest.raises(EvaluationError, match="openai-9: the template file is not there; expected a file"):
        templates_of("openai-9")


def test_all_sets_are_asked_with_the_list(tmp_path: Path) -> None:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "1.png").touch()
    (tmp_path / "c.csv").write_text("folder,names\ncat,cat\n")
    config = EvaluateConfig(folder=tmp_path / "pets", classes=tmp_path / "c.csv", templates="openai-7")
    (each,) = zero_shot_sets(config)
    assert each.classes.templates == templates_of("openai-7")
