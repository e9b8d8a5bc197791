"""Real pictures: emoji of six kinds as one vendor draws them, and as another does."""

import zipfile
from pathlib import Path

import pytest

from clipkit.finetune.config import FinetuneConfig
from clipkit.finetune.run import finetune
from clipkit.train.run_directory import RunDirectory
from tests.finetune.pictures import zero_shot_model
from tests.threads import one_thread as one_thread

BUNDLE = Path("examples/emoji")
KINDS = ("flag", "face", "heart", "arrow", "hand", "moon")


def unpack(folder: Path) -> None:
    """Those emoji whose names have one of the words: NOTO/KIND/CODE.webp, TWEMOJI/KIND/CODE.webp."""
    noto, twemoji = (zipfile.ZipFile(BUNDLE / f"{vendor}.zip") for vendor in ("noto", "twemoji"))
    for line in (BUNDLE / "captions.tsv").read_text().splitlines():
        code, caption = line.split("\t")
        kinds = [kind for kind in KINDS if kind in caption.replace(",", " ").split()]
        if len(kinds) != 1:
            continue
        for vendor, archive, name in (
            ("noto", noto, f"{code}.webp"),
            ("twemoji", twemoji, f"{code}/twemoji.webp"),
        ):
            path = folder / vendor / kinds[0] / f"{code}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))


@pytest.mark.slow
def test_fine_tuning_learns_kinds_of_emoji(tmp_path: Path) -> None:
    unpack(tmp_path)
    rows = "".join(f"{kind},{kind}\n" for kind in KINDS)
    (tmp_path / "classes.csv").write_text(f"folder,names\n{rows}")
    config = FinetuneConfig(
        folder=tmp_path / "noto",
        classes=tmp_path / "classes.csv",
        val_share=0.3,
        shifted=[tmp_path / "twemoji"],
        batch_size=32,
        epochs=6,
        lr=1e-3,
        workers=0,
        alphas=(0, 1),
    )
    result = finetune(zero_shot_model(tmp_path / "zero.pt"), config, RunDirectory(tmp_path / "run"))
    zero, one = (point.scores for point in result.points)
    assert result.held_out and zero[0].images == 157
    assert one[0].top1 > max(0.8, zero[0].top1 + 0.2)
