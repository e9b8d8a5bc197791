"""What a user meets at the command line: exit codes, one clear line, nothing lost."""

import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit._version import VERSION
from clipkit.model.config import config_names
from clipkit.shards.shard_set import ShardSet
from tests.processes import until
from tests.serving import Server, answer, encoded, photo
from tests.tars import write_img2dataset
from tests.test_progress import on_a_terminal


def clipkit(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipkit", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def assert_one_line(finished: subprocess.CompletedProcess[str], *expected: str) -> None:
    """Exit 1, nothing on standard output, and one line of error that says all of `expected`."""
    assert finished.returncode == 1, finished.stderr
    assert finished.stdout == ""
    errors = [line for line in finished.stderr.splitlines() if line.startswith("clipkit: ")]
    assert len(errors) == 1 and finished.stderr.splitlines()[-1] == errors[0], finished.stderr
    assert "Traceback" not in finished.stderr
    for words in expected:
        assert words in errors[0]


@pytest.fixture
def listed(server: Server, tmp_path: Path) -> Path:
    """A list of 60 good URLs and 3 dead ones."""
    urls = [server.add(f"/{n}.jpg", answer(encoded(photo(400, 400, n), quality=98))) for n in range(60)]
    urls += [server.url(f"/gone/{n}.jpg") for n in range(3)]
    path = tmp_path / "list.tsv"
    path.write_text("".join(f"picture number {n}\t{url}\n" for n, url in enumerate(urls)))
    return path


def test_bad_usage_is_exit_2() -> None:
    for words, named in (
        (["ingest", "cc"], "Missing argument"),
        (["nonsense"], "nonsense"),
        (["ingest", "cc", "x", "--proxy", "me"], "--proxy: expected http://HOST:PORT or socks5h://HOST:PORT"),
        (["train", "--shards", "x", "--warmup", "-3"], "--warmup"),
        (["train", "--shards", "x", "--model", "RN49"], "there are RN50"),
        (["train"], "expected one of --shards and --csv, found neither"),
        (["train", "--shards", "x", "--csv", "y"], "expected one of --shards and --csv, found both"),
        (["train", "--csv", "y", "--val-shards", "x", "--val-csv", "y"], "--val-shards and --val-csv, found"),
        (["train", "--shards", "x", "--evaluate-epochs", "2", "--evaluate-samples", "2"], "give one"),
        (["convert", "a", "b", "--to", "onnx"], "--to: expected one of openai"),
        (["evaluate", "--folder", "x"], "--classes"),
    ):
        finished = clipkit(*words)
        assert finished.returncode == 2 and finished.stdout == "", finished
        assert named in finished.stderr


@pytest.mark.parametrize(
    "words", ["train", "evaluate --folder x", "finetune --checkpoint a --folder b --name ."]
)
def test_wrong_options_are_told_before_pytorch_is_loaded(words: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "clipkit", *words.split()]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    loaded = {line.split("|")[-1].strip() for line in finished.stderr.splitlines() if "|" in line}
    assert finished.returncode == 2 and "typer" in loaded and "torch" not in loaded


@pytest.mark.parametrize(
    "words",
    [
        "train --shards x --runs s3://bucket/runs",
        "train --csv gs://bucket/list.csv",
        "evaluate --imagenet-val https://server/val.tar",
        "evaluate --checkpoint S3://bucket/x.pt",
        "evaluate --results s3://bucket/results.jsonl",
        "finetune --checkpoint RN50 --folder x --shifted s3://bucket/y",
        "convert RN50 s3://bucket/x.pt",
        "plot curves run --out s3://bucket/x.png",
    ],
)
def test_what_lies_on_this_machine_alone_is_no_folder_named_like_an_address(
    words: str, tmp_path: Path
) -> None:
    finished = clipkit(*words.split(), cwd=tmp_path)
    assert_one_line(finished, "://", ": expected a file or folder of this machine, found an address")
    assert not list(tmp_path.iterdir())


def test_the_help_says_where_no_address_is_checked() -> None:
    said = " ".join(clipkit("ingest", "cc", "--help").stdout.split())
    assert "--proxy <str> http://HOST:PORT or socks5h://…; the check of addresses is its then." in said
    assert "img2dataset: that tool makes the requests, by its own rules: no check of addresses, no" in said


@pytest.mark.parametrize("option", ["--timeout", pytest.param("--deadline", marks=pytest.mark.slow)])
def test_waits_that_no_clock_knows_are_bad_usage(option: str, tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("x\thttp://example.com/\n")
    for seconds in ("1e300", "nan", "inf", "-1"):
        finished = clipkit("ingest", "cc", "list.tsv", option, seconds, cwd=tmp_path)
        assert finished.returncode == 2 and option in finished.stderr, finished
    assert [path.name for path in tmp_path.iterdir()] == ["list.tsv"]


@pytest.mark.parametrize("name", ["../../esc", "a/b", "..", ".", "/abs"])
def test_a_run_has_the_name_of_one_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "cwd").mkdir()
    finished = clipkit("train", "--shards", "x", "--name", name, cwd=tmp_path / "cwd")
    assert finished.returncode == 2 and "--name: expected the name of one folder" in finished.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["cwd"]


@pytest.mark.slow
def test_of_several_processes_the_first_one_answers(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        said[rank, "alone"] = clipkit("shards", "info", tiny_dataset).stdout  # a job's second machine, say
        with monkeypatch.context() as by_torchrun:
            by_torchrun.setenv("TORCHELASTIC_RUN_ID", "none")
            said[rank, "torchrun"] = clipkit("shards", "info", tiny_dataset, "--json").stdout
    assert [each for each, printed in said.items() if not printed] == [("1", "torchrun")]


def test_a_missing_list(tmp_path: Path) -> None:
    finished = clipkit("ingest", "cc", "absent.tsv", "--out", "dataset", cwd=tmp_path)
    assert_one_line(finished, "absent.tsv", "No such file")
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_pictures_behind_an_address() -> None:
    finished = clipkit("ingest", "files", "s3://bucket/list.csv")
    assert_one_line(finished, "s3://bucket/list.csv: expected a file or folder of this machine")


def test_a_list_without_urls(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("name\tage\nAda\t36\n")
    finished = clipkit("ingest", "cc", "list.tsv", "--out", "dataset", cwd=tmp_path)
    assert_one_line(finished, "found no URL column", "name\\tage")
    assert [path.name for path in tmp_path.iterdir()] == ["list.tsv"]


def test_an_output_directory_that_holds_something_else(listed: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"mine")
    finished = clipkit("ingest", "cc", listed, "--out", tmp_path / "photos")
    assert_one_line(finished, "cat.jpg", "choose another --out")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"mine"


def test_a_locale_that_is_not_utf_8(listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    named = listed.rename(tmp_path / "fotografías.tsv")
    words = ["ingest", "cc", named, "--allow-private-hosts", "--out", tmp_path / "dataset"]
    for _ in range(2):
        finished = clipkit(*words)
        assert finished.returncode == 0, finished.stderr
    content = json.loads((tmp_path / "dataset" / "dataset.json").read_bytes())
    assert [source["name"] for source in content["sources"]] == [named.name]


def test_ingest_info_and_json(listed: Path, tmp_path: Path) -> None:
    words = ["ingest", "cc", listed, "--out", tmp_path / "dataset", "--allow-private-hosts", "--json"]
    first = clipkit(*words)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert (result["records"], result["samples"], result["failures"]) == (63, 60, {"http_4xx": 3})
    last = json.loads(first.stderr.splitlines()[-1])
    assert all(last.pop(name) > 0 for name in ("seconds", "urls_per_second", "mb_per_second"))
    assert last == {
        "stage": "ingest", "done": 63, "total": 63, "ok": 0.9524, "causes": {"http_4xx": 3}, "eta_seconds": 0
    }  # fmt: skip
    again = json.loads(clipkit(*words).stdout)
    assert again["was_complete"] and again["fetched"] == 0
    shown = clipkit("shards", "info", tmp_path / "dataset", "--json")
    summary = json.loads(shown.stdout)
    assert summary["records"] == 63 and summary["reasons"] == {"http_4xx": 3} and shown.stderr == ""
    read = clipkit("shards", "info", tmp_path / "dataset").stdout
    assert "records             63" in read and "http_4xx" in read


def test_ingest_shows_its_figures_on_a_terminal(listed: Path, server: Server, tmp_path: Path) -> None:
    usual = server.routes["/7.jpg"]

    def late(request: BaseHTTPRequestHandler) -> None:
        until(lambda: server.hits.total() == 63, "all others are asked for")
        server.stopping.wait(2)
        usual(request)

    server.add("/7.jpg", late)
    words = [sys.executable, "-m", "clipkit", "ingest", "cc", str(listed), "--out", str(tmp_path / "dataset")]
    program = f"import subprocess, sys; sys.exit(subprocess.call({[*words, '--allow-private-hosts']}))"
    lines = [line.rstrip() for line in on_a_terminal(program, 100)]
    assert any(re.fullmatch(r"ingest [━╸╺]+ 62/63 URLs( +[0-9:]+ to go)?", line) for line in lines), lines
    figures = r"\d+ URLs/s, \d+\.\d MB/s, ok 95%; http_4xx 3"
    assert any(re.fullmatch(figures, line) for line in lines), lines


def test_ingest_tells_servers_whom_to_write_to(server: Server, tmp_path: Path) -> None:
    seen: list[str] = []

    def route(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers["User-Agent"])
        answer(encoded(photo()))(request)

    (tmp_path / "list.tsv").write_text(f"x\t{server.add('/picture', route)}\n")
    words = ["ingest", "cc", "list.tsv", "--allow-private-hosts", "--workers", 1]
    for number, contact in enumerate(([], ["--contact", "mailto:crawler@example.org"])):
        finished = clipkit(*words, *contact, "--out", f"dataset{number}", cwd=tmp_path)
        assert finished.returncode == 0, finished.stderr
    assert seen == [f"clipkit/{VERSION}", f"clipkit/{VERSION} (+mailto:crawler@example.org)"]


def test_ingest_of_a_table_keeps_columns(server: Server, tmp_path: Path) -> None:
    url = server.add("/0.jpg", answer(encoded(photo())))
    table = pa.table({"URL": [url, None, url], "TEXT": ["a", "b", "c"], "similarity": [0.25, 0.5, 0.75]})
    pq.write_table(table, tmp_path / "laion.parquet")
    words = ["ingest", "table", "laion.parquet", "--allow-private-hosts", "--json"]
    finished = clipkit(*words, "--keep-col", "similarity", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert (result["out"], result["samples"], result["failures"]) == ("laion", 2, {"bad_row": 1})
    manifest = pq.read_table(tmp_path / "laion" / "000000.parquet")
    assert manifest.column_names[-1] == "similarity"
    assert manifest["similarity"].to_pylist() == [0.25, 0.75] and manifest["caption"].to_pylist() == [
        "a",
        "c",
    ]
    again = clipkit(*words, "--keep-col", "similarity", cwd=tmp_path)
    assert json.loads(again.stdout)["was_complete"]
    assert_one_line(clipkit(*words, cwd=tmp_path), "keep_col was '[\"similarity\"]', now '[]'")


def test_ingest_of_yfcc(server: Server, tmp_path: Path) -> None:
    url = server.add("/0.jpg", answer(encoded(photo())))
    (tmp_path / "subset.tsv").write_text("".join(f"{line}\t{line + 10}\t{line:032x}\n" for line in (3, 5, 8)))
    lines = [[str(line), str(line + 10), f"{line:032x}", *["x"] * 22] for line in (3, 8)]
    for line, title, marker in zip(lines, ("A+%26amp%3B+B", "video"), "01", strict=True):
        line[8], line[9], line[16], line[24] = title, "", url, marker
    (tmp_path / "yfcc100m_dataset").write_text("".join("\t".join(line) + "\n" for line in lines))
    words = [
        "ingest",
        "yfcc",
        "subset.tsv",
        "--metadata",
        "yfcc100m_dataset",
        "--allow-private-hosts",
        "--json",
    ]
    finished = clipkit(*words, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert (result["out"], result["samples"], result["failures"]) == ("subset", 1, {"bad_row": 2})
    assert pq.read_table(tmp_path / "subset" / "000000.parquet")["caption"].to_pylist() == ["A & B"]
    assert_one_line(clipkit(*words, "--caption", "title", cwd=tmp_path), "caption was 'both', now 'title'")
    assert clipkit(*words, "--caption", "tags", cwd=tmp_path).returncode == 2


def test_ingest_of_files(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(encoded(photo()))
    (tmp_path / "train.csv").write_text("filepath\ttitle\ncat.jpg\ta cat\ndog.jpg\ta dog\n")
    finished = clipkit("ingest", "files", "train.csv", "--json", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert (result["out"], result["samples"], result["failures"]) == ("train", 1, {"bad_url": 1})
    refused = clipkit("ingest", "files", "train.csv", "--image-col", "image", cwd=tmp_path)
    assert_one_line(refused, "'image', found none among filepath, title")


def test_ingest_of_tars(tmp_path: Path) -> None:
    rows = [
        {"url": f"http://h/{n}", "caption": f"picture {n}", "jpg": encoded(photo(300, 300, n))}
        for n in range(5)
    ]
    gone = {
        "url": "http://h/9",
        "caption": "gone",
        "status": "failed_to_download",
        "error_message": "timed out",
    }
    for shard in (0, 1):
        write_img2dataset(tmp_path / "images", shard, [*rows, gone])
    words = ["ingest", "tars", "images/{00000..00001}.tar", "--keep-original", "--json"]
    finished = clipkit(*words, "--keep-col", "status", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "check: 2 of 2 tars" in finished.stderr
    result = json.loads(finished.stdout)
    assert (result["out"], result["records"], result["failures"]) == ("00000", 12, {"timeout": 2})
    ours = ShardSet(tmp_path / "00000")
    assert [ours.read(0, row).image for row in range(10)] == [row["jpg"] for row in rows] * 2
    manifest = pq.read_table(tmp_path / "00000" / "000000.parquet")
    assert manifest["url"].to_pylist() == [row["url"] for row in rows] * 2
    assert set(manifest["status"].to_pylist()) == {"success"}
    summary = json.loads(clipkit("shards", "info", tmp_path / "00000", "--json").stdout)
    assert summary["records"] == 12 and summary["reasons"] == {"timeout": 2}
    words[2] = "images"
    again = clipkit(*words, "--keep-col", "status", cwd=tmp_path)
    assert json.loads(again.stdout)["was_complete"]
    assert_one_line(clipkit(*words, cwd=tmp_path), "keep_col was '[\"status\"]', now '[]'")
    assert_one_line(clipkit(*words, "--keep-col", "key", cwd=tmp_path), "--keep-col key", "has already")


def test_tars_that_cannot_be_used_leave_nothing(tmp_path: Path) -> None:
    tar = write_img2dataset(tmp_path / "images", 0, [{"url": "u", "caption": "c", "jpg": encoded(photo())}])
    before = sorted(tmp_path.rglob("*"))
    for source, *expected in (
        ("images/{00000..00002}.tar", "images/00001.tar, images/00002.tar", "found 2 of them missing"),
        ("pipe:cat images/00000.tar", "found a command"),
        ("https://h/*/00000.tar", "only behind the last slash of an address"),
        ("missing", "missing"),
    ):
        assert_one_line(clipkit("ingest", "tars", source, "--out", "dataset", cwd=tmp_path), *expected)
    empty = clipkit("ingest", "tars", "images", "--out", "", cwd=tmp_path)
    assert_one_line(empty, "expected a path or an address, found an empty one: is a variable not set?")
    tar.write_bytes(tar.read_bytes()[:5000])
    cut = clipkit("ingest", "tars", "images", "--out", "dataset", cwd=tmp_path)
    assert_one_line(cut, "images/00000.tar", "at byte 1,536", "was it cut off?")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_in_ingest_loses_nothing(listed: Path, tiny_disk: Path) -> None:
    words = ["ingest", "cc", listed, "--allow-private-hosts", "--image-size", "400"]
    blocker = tiny_disk / "blocker"
    blocker.write_bytes(bytes(3_500_000))
    full = clipkit(*words, "--out", tiny_disk / "dataset")
    assert_one_line(full, "No space left on device: mend this and run the same command again")
    blocker.unlink()
    assert clipkit(*words, "--out", tiny_disk / "dataset").returncode == 0
    reference = listed.parent / "reference"
    assert clipkit(*words, "--out", reference).returncode == 0
    for path in reference.glob("0*"):
        assert (tiny_disk / "dataset" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("limit", ["-Sn", "-n"])
def test_connections_beyond_the_limit_of_open_files(limit: str, server: Server, tmp_path: Path) -> None:
    together = threading.Barrier(150)

    def route(request: BaseHTTPRequestHandler) -> None:
        together.wait(60)  # all must be connected at a time
        answer(encoded(photo(40, 40)))(request)

    urls = [server.add(f"/{number}", route) for number in range(150)]
    (tmp_path / "list.tsv").write_text("".join(f"x\t{url}\n" for url in urls))
    words = [
        "ingest",
        "cc",
        str(tmp_path / "list.tsv"),
        "--out",
        str(tmp_path / "out"),
        "--allow-private-hosts",
    ]
    words += ["--connections", "150", "--per-host", "150", "--workers", "1", "--timeout", "60", "--json"]
    command = ["sh", "-c", f'ulimit {limit} 140 && exec "$@"', "sh", sys.executable, "-m", "clipkit", *words]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if limit == "-Sn":  # the process may raise it by itself
        assert json.loads(finished.stdout)["samples"] == 150, finished.stderr
    else:
        assert_one_line(finished, "--connections 150", "open files", "ulimit")
        assert not server.hits and not list((tmp_path / "out").rglob("*.parquet"))


def test_a_shard_directory_without_an_index(tmp_path: Path) -> None:
    for words in (["shards", "info", tmp_path], ["train", "--shards", tmp_path]):
        assert_one_line(clipkit(*words), "index.parquet", "found none")


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of four steps."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["--model", "ViT-Micro/16@32px", "--batch-size", 16, "--epochs", 1, "--workers", 0]
    finished = clipkit("train", "--shards", tiny_dataset, "--name", "tiny", *words, "--json", cwd=folder)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert (result["steps"], result["samples"]) == (4, 64)
    return folder


def test_the_run_directory(trained: Path) -> None:
    run = trained / "runs" / "tiny"
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert names == {"config.json", "metrics.jsonl", "out.log", "tensorboard", "checkpoints"}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"epoch_1.pt", "latest"}
    assert (run / "checkpoints" / "latest").readlink() == Path("epoch_1.pt")


@pytest.mark.slow
def test_a_checkpoint_of_another_model(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.jpg").write_bytes(encoded(photo()))
    (tmp_path / "classes.csv").write_text("folder,names\ncat,cat\n")
    latest = trained / "runs" / "tiny" / "checkpoints" / "latest"
    words = ["--folder", tmp_path, "--classes", tmp_path / "classes.csv", "--model", "ViT-B/32"]
    finished = clipkit("evaluate", "--checkpoint", latest, *words)
    assert_one_line(finished, "ViT-Micro/16@32px", "ViT-B/32")
    refused = clipkit("convert", latest, tmp_path / "out.pt", "--model", "RN50")
    assert_one_line(refused, "ViT-Micro/16@32px", "RN50")
    assert not (tmp_path / "out.pt").exists() and not (trained / "runs" / "tiny" / "results.jsonl").exists()


@pytest.mark.slow
def test_a_checkpoint_as_a_hugging_face_folder_and_back(trained: Path, tmp_path: Path) -> None:
    latest = trained / "runs" / "tiny" / "checkpoints" / "latest"
    finished = clipkit("convert", latest, tmp_path / "model", "--to", "hf", "--json")
    assert finished.returncode == 0, finished.stderr
    call = f'transformers.CLIPModel.from_pretrained("{tmp_path / "model"}")'
    assert json.loads(finished.stdout)["open_with"] == call
    back = clipkit("convert", tmp_path / "model", tmp_path / "back.pt", "--to", "clipkit")
    assert back.returncode == 0, back.stderr
    assert_one_line(clipkit("convert", tmp_path, tmp_path / "a.pt"), "is a folder without config.json")
    (tmp_path / "model" / "notes.txt").touch()
    again = clipkit("convert", latest, tmp_path / "model", "--to", "hf")
    assert_one_line(again, "a model folder to replace, found notes.txt in it", "another name")


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_names_the_one_before(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.jpg").write_bytes(encoded(photo()))
    (tmp_path / "classes.csv").write_text("folder,names\ncat,cat\n")
    checkpoints = shutil.copytree(trained / "runs", tmp_path / "runs", symlinks=True) / "tiny" / "checkpoints"
    shutil.copy(checkpoints / "epoch_1.pt", checkpoints / "step_2.pt")
    with (checkpoints / "epoch_1.pt").open("r+b") as damaged:
        damaged.truncate(5000)
    words = ["evaluate", "--folder", tmp_path, "--classes", tmp_path / "classes.csv", "--allow-subset"]
    finished = clipkit(*words, cwd=tmp_path)
    assert_one_line(finished, "epoch_1.pt is cut short", "step_2.pt is older and whole", "with --checkpoint")
    assert clipkit(*words, "--checkpoint", checkpoints / "step_2.pt").returncode == 0
    other = clipkit(*words, "--checkpoint", checkpoints / "step_2.pt", "--model", "RN50")
    assert_one_line(other, "not a RN50")
    assert "whole" not in other.stderr


@pytest.mark.slow
def test_another_model_under_the_same_name(trained: Path, tiny_dataset: Path) -> None:
    files = [path for path in (trained / "runs").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    words = ["--shards", tiny_dataset, "--name", "tiny", "--batch-size", 16, "--epochs", 1, "--workers", 0]
    finished = clipkit("train", *words, "--model", "ViT-Mini/8@64px", cwd=trained)
    assert_one_line(finished, "model was 'ViT-Micro/16@32px', now 'ViT-Mini/8@64px'")
    assert {path: path.read_bytes() for path in (trained / "runs").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_full_disk_in_training_keeps_the_last_checkpoint(tiny_dataset: Path, tiny_disk: Path) -> None:
    words = ["--model", "ViT-Micro/16@32px", "--batch-size", 16, "--epochs", 1, "--workers", 0]
    finished = clipkit("train", "--shards", tiny_dataset, *words, "--runs", tiny_disk)
    assert_one_line(finished, "No space left on device; there is none yet")
    assert list(tiny_disk.rglob("*.pt*")) == []


@pytest.mark.slow
def test_a_full_disk_in_convert_and_plot_names_the_file(trained: Path, tiny_disk: Path) -> None:
    run = trained / "runs" / "tiny"
    (tiny_disk / "blocker").write_bytes(bytes(4_190_000))
    for written, words in {
        "tiny.pt": ["convert", run / "checkpoints" / "latest", tiny_disk / "tiny.pt"],
        "curves.png": ["plot", "curves", run, "--out", tiny_disk / "curves.png"],
        "curves.svg": ["plot", "curves", run, "--out", tiny_disk / "curves.svg"],
    }.items():
        told = f"clipkit: {tiny_disk / written}: No space left on device: "
        assert_one_line(clipkit(*words), told + "mend this and run the same command again")
    assert [path.name for path in tiny_disk.iterdir()] == ["blocker"]


def test_a_file_that_may_not_be_written_is_named(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    curves = tmp_path / "file" / "curves.png"
    plotted = clipkit("plot", "curves", trained / "runs" / "tiny", "--out", curves)
    assert_one_line(plotted, f"clipkit: {tmp_path / 'file'}: ")


@pytest.mark.slow
def test_without_a_run_there_is_nothing_to_evaluate(tmp_path: Path) -> None:
    finished = clipkit("evaluate", "--imagenet-val", tmp_path, cwd=tmp_path)
    assert_one_line(finished, "runs: no run in it has a checkpoint")


def test_plot_curves_of_a_run_and_of_none(trained: Path, tmp_path: Path) -> None:
    plotted = clipkit("plot", "curves", trained / "runs" / "tiny", "--out", tmp_path / "curves.svg")
    assert plotted.returncode == 0 and "<svg" in (tmp_path / "curves.svg").read_text()
    assert_one_line(clipkit("plot", "curves", tmp_path, "--out", tmp_path / "none.png"), str(tmp_path))
    assert not (tmp_path / "none.png").exists()


@pytest.mark.slow
def test_models_are_listed() -> None:
    listed = {row["name"]: row for row in json.loads(clipkit("models", "--json").stdout)["models"]}
    assert round(listed["RN50"]["parameters"] / 1e6, 2) == 102.01
    assert set(listed) == set(config_names())


FAILS_WHILE_A_THREAD_TRIES = """
import threading
from clipkit import cli, remote

asked, ends, said = (threading.Event() for _ in range(3))

def ask(transfer):
    asked.set()
    if ends.wait():
        raise ConnectionResetError("by peer")

def ending():
    ends.set()
    said.wait()

remote.time.sleep = lambda seconds: said.set() or threading.Event().wait()
threading.Thread(target=remote.tried, args=("s3://a/b", "read it", ask), daemon=True).start()
asked.wait()
cli.scratch.clear = ending  # after the error's line
cli.main()
"""


def test_the_last_line_is_the_errors() -> None:
    command = [sys.executable, "-c", FAILS_WHILE_A_THREAD_TRIES, "shards", "info", "absent"]
    assert_one_line(subprocess.run(command, capture_output=True, text=True, timeout=60), "absent: ")
