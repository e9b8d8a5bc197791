"""Runs whose networks are compiled: the same losses, files and continuations as without."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clipkit.errors import TrainError
from clipkit.train.config import TrainConfig
from clipkit.train.run_directory import RunDirectory
from tests.train.test_run import losses, run_it

CONFIG = TrainConfig(model="ViT-Micro/16@32px", batch_size=12, epochs=1, lr=1e-4, log_every=1, workers=0)
COMPILED = CONFIG.model_copy(update={"compile": True})

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_a_compiled_run_has_the_same_losses_and_goes_on(tiny_dataset: Path, tmp_path: Path) -> None:
    plain, compiled = (RunDirectory(tmp_path / name) for name in ("plain", "compiled"))
    config = COMPILED.model_copy(update={"save_every": 36})
    run_it(tiny_dataset, plain.path, CONFIG)
    run_it(tiny_dataset, compiled.path, config)
    expected, found = losses(plain.path), losses(compiled.path)
    assert len(found) == 5 and found == pytest.approx(expected, abs=1e-5)
    stored, other = (
        torch.load(run.checkpoints / "epoch_1.pt", weights_only=True)["state_dict"]
        for run in (plain, compiled)
    )
    assert list(stored) == list(other)
    (compiled.checkpoints / "epoch_1.pt").unlink()
    (compiled.checkpoints / "latest").unlink()
    run_it(tiny_dataset, compiled.path, config)
    assert losses(compiled.path) == found
    together = COMPILED.model_copy(update={"accumulate": 2, "grad_checkpointing": True})
    run_it(tiny_dataset, tmp_path / "together", together)
    assert losses(tmp_path / "together") == pytest.approx(expected, abs=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="another compiler makes a GPU's code")
def test_a_machine_without_a_compiler_is_told_in_one_line(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    said = "--compile does not work here: .*compiler.*: mend that, or leave it out"
    no_compiler = torch._inductor.config.patch("cpp.cxx", (None, str(tmp_path / "no-compiler")))
    with no_compiler, pytest.raises(TrainError, match=said) as caught:
        run_it(tiny_dataset, tmp_path / "run", COMPILED)
    assert "\n" not in str(caught.value)
