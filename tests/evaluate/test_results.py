from pathlib import Path

from clipkit.evaluate.results import results_path


def test_results_belong_to_the_run_or_beside_the_file(tmp_path: Path) -> None:
    assert results_path(tmp_path / "runs/a/checkpoints/epoch_3.pt") == tmp_path / "runs/a/results.jsonl"
    assert results_path(tmp_path / "RN50.pt") == tmp_path / "results.jsonl"
