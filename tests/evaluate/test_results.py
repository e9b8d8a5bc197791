from pathlib import Path

from clipkit.evaluate.results import file_sha256, results_path


def test_results_belong_to_the_run_or_beside_the_file(tmp_path: Path) -> None:
    assert results_path(tmp_path / "runs/a/checkpoints/epoch_3.pt") == tmp_path / "runs/a/results.jsonl"
    assert results_path(tmp_path / "RN50.pt") == tmp_path / "results.jsonl"


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
