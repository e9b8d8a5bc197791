import json
from pathlib import Path

import pytest

from clipkit.errors import EvaluationError
from clipkit.evaluate.scores import read_series
from tests.evaluate.scored import V2, both, result, write_results


def test_a_run_is_one_series_and_each_other_model_file_another(tmp_path: Path) -> None:
    lines = [*both(0.3, 0.25), *both(0.4, 0.33, 2_000_000)]
    lines += both(0.6, 0.53, None, checkpoint="/models/RN50.pt", checkpoint_sha256="x")
    run = write_results(tmp_path / "run", lines)
    (run / "config.json").write_text('{"data": {"samples": 500000}}')
    first, second = read_series([run])[0]
    assert (first.label, first.epoch_samples, first.mixed) == ("run", 500_000, False)
    assert [(score.set_name, score.top1) for score in first.scores[:2]] == [("imagenet", 0.3), (V2, 0.25)]
    assert [score.samples for score in first.scores] == [1_000_000, 1_000_000, 2_000_000, 2_000_000]
    assert (second.label, len(second.scores)) == ("RN50", 2)
    assert len(read_series([run / "results.jsonl", run / "results.jsonl"])[0]) == 2


def test_what_a_run_logged_in_training_counts_once(tmp_path: Path) -> None:
    """The trainer writes each evaluation to metrics.jsonl and to results.jsonl."""
    logged = {
        "step": 1,
        "samples": 64,
        "imagenet-zeroshot-val-top1": 0.1,
        "imagenet-zeroshot-val-chance": 0.001,
    }
    run = write_results(tmp_path / "run", [{"kind": "training", "checkpoint": None, **logged}])
    (run / "metrics.jsonl").write_text(
        json.dumps(logged) + "\n" + json.dumps({**logged, "samples": 128}) + "\n"
    )
    (series,), notes = read_series([run])
    assert [(each.samples, each.set_name, each.top1, each.in_training) for each in series.scores] == [
        (64, "imagenet", 0.1, True),
        (128, "imagenet", 0.1, True),
    ]
    assert notes == []


def test_labels_that_are_the_same_get_their_folders_names(tmp_path: Path) -> None:
    runs = [write_results(tmp_path / name / "run", both(0.3, 0.25)) for name in ("a", "b")]
    models = [write_results(tmp_path / name, both(0.3, 0.25, None, checkpoint="/m/RN50.pt")) for name in "cd"]
    series, _ = read_series([*runs, *models])
    assert [each.label for each in series] == ["a/run", "b/run", "c/RN50", "d/RN50"]
    same = both(0.3, 0.2, None, checkpoint="m.pt", checkpoint_sha256="0123456789")
    same += both(0.3, 0.2, None, checkpoint="m.pt", checkpoint_sha256="abcdefghij")
    found, _ = read_series([write_results(tmp_path / "replaced", same)])
    assert [each.label.rpartition("/")[2] for each in found] == ["m (01234567)", "m (abcdefgh)"]


@pytest.mark.parametrize(
    "top1", ["NaN", "Infinity", "-0.1", "1.1", '"0.3"', "null", "true", "1" + 400 * "0", "[]"]
)
def test_accuracies_that_are_none_are_told_and_passed_over(tmp_path: Path, top1: str) -> None:
    run = write_results(tmp_path / "run", [result("imagenet", 0.3)])
    line = json.dumps(result(V2, 0.5)).replace("0.5", top1)
    with (run / "results.jsonl").open("a") as results:
        results.write(
            line + "\n" + '{"kind": "training", "samples": 5, "x-zeroshot-val-top1": ' + top1 + "}\n"
        )
    (series,), notes = read_series([run])
    assert [each.top1 for each in series.scores] == [0.3]
    assert notes == [
        f"run: passed over a result on {V2} whose top1 is no number in 0…1",
        "run: passed over x-zeroshot-val-top1s that are no numbers in 0…1",
    ]


def test_damaged_lines_and_other_kinds_are_passed_over(tmp_path: Path) -> None:
    run = write_results(tmp_path / "run", both(0.3, 0.25))
    other = {"kind": "retrieval", "set": "imagenet", "top1": 1.0, "samples": 1}
    odd = {"kind": "zero-shot", "set": ["imagenet"], "top1": 1.0}
    with (run / "results.jsonl").open("ab") as results:
        results.write(b'{"kind": "zero-shot", "se\n[1, 2]\n\xff\xfe\n' + b"[" * 100_000 + b"\n\n")
        results.write(json.dumps(other).encode() + b"\n" + json.dumps(odd).encode() + b"\n")
    (series,), notes = read_series([run])
    assert (len(series.scores), notes) == (2, [])


def test_fields_that_lack_or_are_odd_are_unknown(tmp_path: Path) -> None:
    bare = {"kind": "zero-shot", "set": "imagenet", "top1": 0.3}
    odd = {
        **result("imagenet", 0.3),
        "samples": 1e300,
        "images": -4,
        "model": 7,
        "unreadable": "no",
        "partial": 0,
    }
    run = write_results(tmp_path / "run", [bare, {**odd, "checkpoint": None, "templates_sha256": 3}])
    for each in read_series([run])[0]:
        (score,) = each.scores
        assert (score.samples, score.images, score.model, score.partial) == (None, None, None, None)
        assert (score.unreadable, score.prompts) == (0, None)


def test_settings_that_cannot_be_read_tell_nothing(tmp_path: Path) -> None:
    run = write_results(tmp_path / "run", both(0.3, 0.25))
    for text in ("{", "[]", '{"data": 3}', '{"data": {"samples": 0}}', '{"data": {"samples": "many"}}'):
        (run / "config.json").write_text(text)
        assert read_series([run])[0][0].epoch_samples is None


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"found neither results\.jsonl nor metrics\.jsonl in it"):
        read_series([tmp_path / "empty"])
    with pytest.raises(EvaluationError, match="found no such file"):
        read_series([tmp_path / "none.jsonl"])
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(EvaluationError, match="expected lines of JSON objects, found none"):
        read_series([tmp_path / "picture.png"])
    (tmp_path / "nothing.jsonl").touch()
    assert read_series([tmp_path / "nothing.jsonl"]) == ([], [])
