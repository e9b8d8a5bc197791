"""The whole pipeline on real pictures: train on one vendor's emoji, test zero-shot on another's.

    make demo        (python examples/emoji/demo.py; everything goes to build/demo)

Runs the real commands, each printed first. Finished stages are not repeated; an interrupted one continues.
"""

import contextlib
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

from clipkit.atomic import flush, write_text
from clipkit.tables import table

ROOT = Path(__file__).resolve().parent.parent.parent
HERE, BUILD = Path("examples/emoji"), Path("build/demo")
SITE, LIST = BUILD / "site", BUILD / "emoji-train.tsv"
DATASET, PICTURES, RUN = BUILD / "dataset", BUILD / "twemoji", BUILD / "runs" / "emoji"
MODEL, CURVES = BUILD / "emoji-openai.pt", BUILD / "curves.png"
DEAD_LINKS = 12
INTERRUPTED_SECONDS = 20

TRAIN = shlex.split(
    "--model RN-Mini@64px --epochs 40 --batch-size 128 --lr 1e-3 --crop-scale 0.6 1.0 --workers 1 --keep 2"
)


def main() -> None:
    """Run every stage that has not finished, then show what came out."""
    os.chdir(ROOT)
    BUILD.mkdir(parents=True, exist_ok=True)
    prepare()
    with served(SITE, port()):
        stage("ingest", ["ingest", "cc", LIST, "--out", DATASET, "--allow-private-hosts"])
    clipkit(["shards", "info", DATASET])
    stage("train", ["train", "--shards", DATASET, "--runs", RUN.parent, "--name", RUN.name, *TRAIN])
    classes = ["--folder", PICTURES, "--classes", HERE / "classes.csv", "--templates", HERE / "templates.txt"]
    stage("evaluate", ["evaluate", "--runs", RUN.parent, *classes])
    stage("convert", ["convert", RUN / "checkpoints" / "latest", MODEL])
    stage("plot", ["plot", "curves", RUN, "--out", CURVES])
    show()


def prepare() -> None:
    """Unpack the pictures and write the list of captions and URLs, with some that cannot work."""
    unpack(HERE / "noto.zip", SITE)
    unpack(HERE / "twemoji.zip", PICTURES)
    if LIST.exists():
        return
    (SITE / "page.webp").write_text("<!doctype html><title>Not found</title><p>This is no picture.")
    with (HERE / "captions.tsv").open(encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    base = f"http://127.0.0.1:{free_port()}"
    lines = [f"{caption}\t{base}/{name}.webp" for name, caption in rows]
    lines += [f"{rows[0][1]}\t{base}/{rows[0][0]}.webp?again"]
    lines += [f"a page instead of a picture\t{base}/page.webp"]
    lines += [f"a picture that is gone\t{base}/gone/{number}.webp" for number in range(DEAD_LINKS)]
    write_text(LIST, "\n".join(lines) + "\n")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip of the bundle, so that the folder appears only when it is complete."""
    if folder.exists():
        return
    temporary = folder.with_name(f"{folder.name}.tmp")
    with zipfile.ZipFile(archive) as pictures:
        pictures.extractall(temporary)
    flush(temporary)
    temporary.rename(folder)


def free_port() -> int:
    """Return a free port below those that the system gives out, so that it stays free for another try."""
    for number in range(18_765, 18_865):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", number)):
            return number
    sys.exit("demo: expected a free port from 18765 to 18864 on 127.0.0.1, found none")


def port() -> int:
    """Return the port that the list's URLs name."""
    return int(LIST.read_text(encoding="utf-8").partition("http://127.0.0.1:")[2].partition("/")[0])


@contextmanager
def served(folder: Path, number: int) -> Iterator[None]:
    """Serve a folder over HTTP on loopback while ingest needs it."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 1024

        def handle_error(self, request: object, client_address: object) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # a client that was interrupted hangs up
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    class Quiet(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002 (the base class's name)
            pass

    if done("ingest").exists():
        yield
        return
    try:
        server = Server(("127.0.0.1", number), partial(Quiet, directory=str(folder)))
    except OSError as error:
        sys.exit(
            f"demo: port {number} of {LIST} cannot be served on: {error.strerror}; free it, or `make clean`"
        )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def stage(name: str, command: list[object]) -> None:
    """Run a command unless it has finished before."""
    if done(name).exists():
        print(f"\n# {name}: finished before; `make clean` starts over", flush=True)
        return
    clipkit(command)
    write_text(done(name), "")


def done(name: str) -> Path:
    """Return the file that says that a stage has finished."""
    return BUILD / f"{name}.done"


def clipkit(command: list[object]) -> None:
    """Print a command, run it, and end the demo with its exit code if it fails."""
    words = ["clipkit", *map(str, command)]
    print(f"\n$ {shlex.join(words)}", flush=True)
    early: list[int] = []  # SIGTERM while the command is being started, when nothing could end it yet
    before = signal.signal(signal.SIGTERM, lambda number, _: early.append(number))
    with subprocess.Popen([sys.executable, "-m", *words]) as running:
        try:
            signal.signal(signal.SIGTERM, before)
            if early:
                terminated(early[0], None)
            code = running.wait()
        except KeyboardInterrupt:  # has reached the command too, which comes to an end in its own order
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(INTERRUPTED_SECONDS)
            running.terminate()
            raise
        except SystemExit:
            running.terminate()
            raise  # on leaving, the command is waited for
    if code:
        sys.exit(code)


def terminated(number: int, frame: object) -> NoReturn:
    """End the demo as SIGTERM asks, by way of what ends the command that runs."""
    sys.exit(128 + number)


def show() -> None:
    """Print the figures, from the files that the commands left, and say what to open."""
    totals = json.loads((DATASET / "dataset.json").read_text(encoding="utf-8"))["totals"]
    metrics = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [line["samples_per_second"] for line in metrics if "samples_per_second" in line]
    results = [json.loads(line) for line in (RUN / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    result = [line for line in results if line.get("kind") == "zero-shot"][-1]
    rows = [
        ("URLs", f"{totals['records']:,}"),
        ("samples", f"{totals['samples']:,}"),
        ("failures", f"{totals['failures']:,}"),
        ("training samples/s", f"{statistics.median(speeds):,.0f}"),
        (f"top-1 of {result['classes']:,} classes, other vendor", f"{100 * result['top1']:.2f}%"),
        ("top-5", f"{100 * result['top5']:.2f}%"),
        ("chance", f"{100 * result['chance']:.3f}%"),
    ]
    print(f"\n{table(rows)}\n\nOpen these:")
    print(f"  {DATASET}/report.html   what was downloaded, what failed and why")
    print(f"  {CURVES}   the training curves")
    print(f"  {RUN}/results.jsonl   the accuracy, with all that is needed to repeat it")
    print(f'  {MODEL}   for OpenAI\'s package: clip.load("{MODEL}", device="cpu")')


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminated)
    try:
        main()
    except KeyboardInterrupt:
        print("\nInterrupted; `make demo` goes on from here.", file=sys.stderr)
        sys.exit(130)
