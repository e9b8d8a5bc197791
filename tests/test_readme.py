"""The README's blocks, run as they stand but for the size of things."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clipkit.train.recipes import RECIPES
from tests.evaluate.packed import devkit, gzipped, tarred, v2, validation
from tests.serving import Server, answer, encoded, photo

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SMALLER: dict[str, tuple[dict[str, str], list[str]]] = {
    "ingest": ({}, ["--allow-private-hosts"]),
    "shards": ({}, []),
    "train": (
        {},
        shlex.split("--model ViT-Micro/16@32px --batch-size 16 --epochs 1 --warmup 1 --workers 0"),
    ),
    "evaluate": ({}, ["--allow-subset", "--templates", "templates.txt"]),
    "convert": ({}, []),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Path:
    """What the README's commands find: the list, pictures behind its URLs, ImageNet's archives."""
    urls = [server.add(f"/{n}.jpg", answer(encoded(photo(60, 60, n)))) for n in range(40)]
    (tmp_path / "Train_GCC-training.tsv").write_text("".join(f"a picture\t{url}\n" for url in urls))
    (tmp_path / "templates.txt").write_text("a photo of a {}.\n")
    (tmp_path / "cat.jpg").write_bytes(encoded(photo()))
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(tarred(validation()))
    devkit(tmp_path / "ILSVRC2012_devkit_t12.tar.gz")
    inner = "imagenetv2-matched-frequency-format-val"
    gzipped(tmp_path / "imagenetv2-matched-frequency.tar.gz", tarred(v2(inner)))
    return tmp_path


def test_the_commands_and_the_script_run(folder: Path) -> None:
    (commands,) = blocks("sh")
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        assert program == "clipkit"
        smaller, more = SMALLER[words[0]]
        assert smaller.keys() <= set(words), f"the README's line changed: {line}"
        command = [sys.executable, "-m", "clipkit", *(smaller.get(word, word) for word in words), *more]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=200)
    assert (folder / "cc3m-rn50.pt").exists()
    (script,) = blocks("python")
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, check=True, capture_output=True, text=True, timeout=100
    )
    assert printed.stdout.startswith("tensor([[")


def test_the_loop_of_the_page_on_the_stream_runs(tiny_dataset: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "stream.md").read_text()
    (script,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert "BATCH = 256" in script
    (tmp_path / "loop.py").write_text(script.replace("BATCH = 256", "BATCH = 24"))
    (tmp_path / "cc3m").symlink_to(tiny_dataset)
    command = [sys.executable, str(tmp_path / "loop.py")]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    # Two epochs of 64 samples hold five batches of 24.
    expected = "120 torch.Size([24, 3, 224, 224]) torch.Size([24, 77])\n"
    assert (done.stdout, done.stderr) == (expected, "")


def test_every_target_and_link_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/recipes.md",
        "docs/stream.md",
        "examples/emoji/README.md",
    ):
        text = (ROOT / page).read_text()
        assert set(re.findall(r"\bmake ([a-z-]+)\b(?=`|\s{3,})", text)) <= targets, page
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


def test_the_commands_of_the_recipes_have_their_options() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    known = (ROOT / "tests" / "options.txt").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^    (clipkit .*)$", page, re.MULTILINE)]
    assert len(commands) > 8
    for words in commands:
        names = list(itertools.takewhile(lambda word: re.fullmatch("[a-z]+", word), words))
        command = next(" ".join(names[:n]) for n in (3, 2) if f"\n{' '.join(names[:n])} " in known)
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"^{command} {option}(…| |$)", known, re.MULTILINE), (command, option)
    recipes = set(re.findall(r"`([a-z0-9]+-rn[x0-9]+)`", page))
    assert (
        recipes
        == set(RECIPES)
        >= {words[words.index("--recipe") + 1] for words in commands if "--recipe" in words}
    )
