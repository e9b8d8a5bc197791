"""One side of the comparison, in a process of its own: `python sides.py SIDE DATASET BATCHES` says its cost.

Each side reads the same shards, shuffles, decodes, crops to 224 pixels as OpenCLIP's default transform does,
tokenizes, and hands out batches of 256 made by two workers. What is counted lies between two batches in the
middle, so neither start nor end are in it.
"""

import io
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

BATCH_SIZE = 256
WORKERS = 2
WARM_UP = 8  # batches
SIZE = 224

_TICKS = os.sysconf("SC_CLK_TCK")
_TIMES = slice(11, 15)  # fields of /proc/PID/stat behind the name: its own, and those of children that ended


def clipkit_batches(dataset: Path, count: int) -> Iterator[Any]:
    from clipkit.model.preprocess import TrainTransform
    from clipkit.model.tokenizer import Tokenizer
    from clipkit.shards.loader import batches
    from clipkit.shards.shard_set import ShardSet

    return batches(
        ShardSet(dataset),
        batch_size=BATCH_SIZE,
        workers=WORKERS,
        transform=TrainTransform(SIZE),
        tokenize=Tokenizer(),
    )


def open_clip_batches(dataset: Path, count: int) -> Iterator[Any]:
    from open_clip import get_tokenizer, image_transform
    from open_clip_train.data import get_wds_dataset

    settings = SimpleNamespace(
        train_data=tars(dataset),
        train_num_samples=(count + 2 * WORKERS) * BATCH_SIZE,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        val_num_samples=None,
        seed=0,
        workers=WORKERS,
        world_size=1,
        batch_size=BATCH_SIZE,
    )
    transform = image_transform(SIZE, is_train=True)
    made = get_wds_dataset(settings, transform, is_train=True, tokenizer=get_tokenizer("ViT-B-32"))
    return iter(made.dataloader)


def webdataset_batches(dataset: Path, count: int) -> Iterator[Any]:
    import webdataset
    from open_clip import get_tokenizer, image_transform

    transform, tokenizer = image_transform(SIZE, is_train=True), get_tokenizer("ViT-B-32")
    samples = webdataset.WebDataset(tars(dataset), shardshuffle=100, seed=0).shuffle(5000, initial=1000)
    pairs = samples.decode("pil").to_tuple("jpg", "txt")
    tokenized = pairs.map_tuple(transform, lambda caption: tokenizer(caption)[0])
    batched = tokenized.batched(BATCH_SIZE, partial=False).repeat()
    return iter(webdataset.WebLoader(batched, batch_size=None, num_workers=WORKERS))


def streaming_batches(dataset: Path, count: int) -> Iterator[Any]:
    from open_clip import get_tokenizer, image_transform
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    transform, tokenizer = image_transform(SIZE, is_train=True), get_tokenizer("ViT-B-32")

    class Pairs(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, place: int) -> Any:
            sample = super().__getitem__(place)
            return transform(Image.open(io.BytesIO(sample["image"]))), tokenizer(sample["caption"])[0]

    pairs = Pairs(local=str(_as_mds(dataset)), batch_size=BATCH_SIZE, shuffle=True)
    while True:
        yield from DataLoader(pairs, batch_size=BATCH_SIZE, num_workers=WORKERS, drop_last=True)


SIDES = {
    "clipkit": clipkit_batches,
    "open_clip": open_clip_batches,
    "webdataset": webdataset_batches,
    "streaming": streaming_batches,
}


def _as_mds(dataset: Path) -> Path:
    """MosaicML's shards of the same samples, made beside the dataset once."""
    from streaming import MDSWriter

    folder = dataset.with_name(dataset.name + "-mds")
    if not folder.exists():
        begun = folder.with_name(folder.name + ".begun")
        shutil.rmtree(begun, ignore_errors=True)
        with MDSWriter(out=str(begun), columns={"image": "bytes", "caption": "str"}) as writer:
            for path in sorted(dataset.glob("*.tar")):
                with tarfile.open(path) as tar:
                    read = [content.read() for member in tar if (content := tar.extractfile(member))]
                for image, caption in zip(read[::2], read[1::2], strict=True):
                    writer.write({"image": image, "caption": caption.decode()})
        begun.rename(folder)
    return folder


def tars(dataset: Path) -> str:
    names = sorted(path.stem for path in dataset.glob("*.tar"))
    return f"{dataset}/{{{names[0]}..{names[-1]}}}.tar"


def cpu_seconds(process: int) -> float:
    """CPU time so far of a process and of all that live or lived below it."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[_TIMES])) / _TICKS
    threads = Path(f"/proc/{process}/task").iterdir()
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    return own + sum(cpu_seconds(int(child)) for child in children)


def main(side: str, dataset: str, count: int) -> None:
    begun = (0.0, 0.0)
    samples = 0
    for number, batch in enumerate(SIDES[side](Path(dataset), count)):
        images, tokens = batch[:2]
        assert images.shape == (BATCH_SIZE, 3, SIZE, SIZE) and len(tokens) == BATCH_SIZE
        now = time.perf_counter(), cpu_seconds(os.getpid())
        if number < WARM_UP:
            begun = now
        else:
            samples += BATCH_SIZE
        if number == count - 1:
            break
    cost = {"samples": samples, "wall": now[0] - begun[0], "cpu": now[1] - begun[1]}
    print(json.dumps(cost), flush=True)
    os._exit(0)  # the peers' workers need not end in order


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
