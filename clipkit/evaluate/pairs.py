"""Pictures with their captions, from shards or a table, embedded in their order by all ranks together.

Shapes: B batch, C channels, H height, W width (of digests_2NW: two words), L tokens, N pairs, D embedding.
"""

import hashlib
import threading
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from clipkit.errors import ClipkitError, EvaluationError
from clipkit.evaluate.classes import listing
from clipkit.evaluate.config import IMAGE_BATCH
from clipkit.evaluate.decode import SHA256_BYTES, Digest, EvalPicture, made_batches
from clipkit.evaluate.ranks import ALONE, Ranks, all_numbered
from clipkit.evaluate.retrieval import Embedded
from clipkit.evaluate.zero_shot import Report, Tokenize, image_features, silent, text_features
from clipkit.model.clip import Clip
from clipkit.model.preprocess import EvalTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.pictures import Pixels
from clipkit.shards.bad_samples import FEWEST, MAX_BAD, BadSample
from clipkit.shards.sample_set import SampleSet
from clipkit.shards.shard_files import SampleError
from clipkit.shards.shard_set import Sample
from clipkit.threads import finished_before_the_end, not_waited_for

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class EmbeddedPairs:
    """The readable pairs of a data set as a model sees them, in its order, and the names of the others.

    `files_sha256` is that of a line for each pair of the set: the SHA-256 of the picture's bytes, a tab, that
    of the caption in UTF-8, in hex; zeros for a pair that could not be read.
    """

    images: Embedded
    texts: Embedded
    unreadable: tuple[str, ...]
    files_sha256: str


def embedded_pairs(
    model: Clip,
    samples: SampleSet,
    *,
    batch_size: int = IMAGE_BATCH,
    workers: int | None = None,
    report: Report = silent,
    ranks: Ranks = ALONE,
    fewest: int = FEWEST,
) -> EmbeddedPairs:
    """Embed every picture and caption of `samples`, with OpenAI's evaluation transform.

    All ranks call it together and get all of it; each reads its share, and `report` hears how far it is.
    Raises EvaluationError, naming them, if more than 0.1% of the samples and than `fewest` cannot be read,
    or all; DatasetError if a shard is damaged.
    """
    count, dim = len(samples), model.config.embed_dim
    features_2ND = torch.zeros(2, count, dim)
    digests_2NW = torch.zeros(2, count, 2, dtype=torch.int64)
    sha256_2N = torch.zeros(2, count, SHA256_BYTES, dtype=torch.uint8)
    most = min(count - 1, max(fewest, int(MAX_BAD * count)))
    unreadable: list[_Unreadable] = []
    pairs = _Pairs(samples, EvalTransform(model.config.image_size), Tokenizer(model.context_length))
    for batch in made_batches(pairs.batch, count, batch_size=batch_size, workers=workers, ranks=ranks):
        unreadable.extend(batch.unreadable)
        if len(unreadable) > most:
            break
        if len(batch.places_B):
            features_2ND[0, batch.places_B] = image_features(model, batch.images_BCHW).cpu()
            features_2ND[1, batch.places_B] = text_features(model, batch.tokens_BL).cpu()
            digests_2NW[:, batch.places_B] = batch.digests_2BW
            sha256_2N[:, batch.places_B] = batch.sha256_2B
        report(batch.end)
    missing = all_numbered([(row.place, row.name) for row in unreadable], ranks)
    if len(missing) > most:
        raise EvaluationError(
            f"{samples.source}: expected at most {most:,} of {count:,} samples that cannot be read, found "
            f"{len(missing):,}: {listing(missing.values())}; mend them or leave them out"
        )
    features_2ND, digests_2NW = ranks.total(features_2ND), ranks.total(digests_2NW)
    if missing:
        read_N = torch.ones(count, dtype=torch.bool)
        read_N[list(missing)] = False
        features_2ND, digests_2NW = features_2ND[:, read_N], digests_2NW[:, read_N]
    images, texts = (
        Embedded(features_ND, digests_NW.numpy())
        for features_ND, digests_NW in zip(features_2ND, digests_2NW, strict=True)
    )
    return EmbeddedPairs(images, texts, tuple(missing.values()), _files_sha256(ranks.total(sha256_2N)))


class _Pair(NamedTuple):
    place: int
    pixels: Pixels
    tokens: npt.NDArray[np.int64]
    digests: npt.NDArray[np.int64]  # (2, 2): of the pixels, and of the tokens
    sha256: Digest  # (2, 32): of the picture's bytes, and of the caption's


class _Unreadable(NamedTuple):
    place: int
    name: str


class _PairBatch(NamedTuple):
    images_BCHW: torch.Tensor
    tokens_BL: torch.Tensor
    digests_2BW: torch.Tensor
    sha256_2B: torch.Tensor
    places_B: torch.Tensor
    unreadable: tuple[_Unreadable, ...]
    end: int  # the place behind the batch's last sample


class _Pairs:
    """Reads and decodes pairs; called by several threads at a time."""

    def __init__(self, samples: SampleSet, transform: EvalPicture, tokenize: Tokenize) -> None:
        self._samples = samples
        self._transform = transform
        self._tokenize = tokenize
        self._ends = np.cumsum(samples.sizes)
        self._own = threading.local()

    def batch(self, places: range) -> _PairBatch:
        """Return the pairs at these places. Raises DatasetError for a fault of more than one sample."""
        with not_waited_for():
            rows = [self._pair(place) for place in places]
        return _collated(rows)

    @finished_before_the_end()
    def _pair(self, index: int) -> _Pair | _Unreadable:
        samples = self._samples_of_thread()
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - int(self._ends[shard] - samples.sizes[shard])
        if samples.is_remote:
            samples.prepare(range(shard, min(shard + 2, len(self._ends))))
        try:
            sample = samples.read(shard, row)
        except SampleError as error:
            return self._unreadable(index, shard, row, error)
        try:
            pixels = self._transform(sample.image)
        except ClipkitError as error:
            return self._unreadable(index, shard, row, error)
        (tokens,) = self._tokenize([sample.caption])
        digests = np.stack([_digest(pixels), _digest(tokens)])
        return _Pair(index, pixels, tokens, digests, _sha256(sample))

    def _samples_of_thread(self) -> SampleSet:
        """Return this thread's copy, which has files of its own."""
        if not hasattr(self._own, "samples"):
            self._own.samples = copy(self._samples)
        samples: SampleSet = self._own.samples
        return samples

    def _unreadable(self, index: int, shard: int, row: int, error: ClipkitError) -> _Unreadable:
        samples = self._samples_of_thread()
        return _Unreadable(index, str(BadSample(samples.place(shard), samples.key(shard, row), str(error))))


def _sha256(sample: Sample) -> Digest:
    parts = sample.image, sample.caption.encode(errors="surrogateescape")
    digests = b"".join(hashlib.sha256(part).digest() for part in parts)
    return np.frombuffer(digests, np.uint8).reshape(2, SHA256_BYTES)


def _files_sha256(sha256_2N: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for image, caption in zip(*sha256_2N.numpy(), strict=True):
        digest.update(f"{image.tobytes().hex()}\t{caption.tobytes().hex()}\n".encode())
    return digest.hexdigest()


def _digest(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    digest = hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=_DIGEST_BYTES).digest()
    return np.frombuffer(digest, np.int64)


def _collated(rows: list[_Pair | _Unreadable]) -> _PairBatch:
    pairs = [row for row in rows if isinstance(row, _Pair)]
    unreadable = tuple(row for row in rows if isinstance(row, _Unreadable))
    places = [row.place for row in pairs]
    end = 1 + max(places + [row.place for row in unreadable])
    if not pairs:
        nothing = torch.empty(0)
        return _PairBatch(nothing, nothing, nothing, nothing, torch.tensor(places), unreadable, end)
    return _PairBatch(
        images_BCHW=torch.from_numpy(np.stack([row.pixels for row in pairs])),
        tokens_BL=torch.from_numpy(np.stack([row.tokens for row in pairs])),
        digests_2BW=torch.from_numpy(np.stack([row.digests for row in pairs], axis=1)),
        sha256_2B=torch.from_numpy(np.stack([row.sha256 for row in pairs], axis=1)),
        places_B=torch.tensor(places),
        unreadable=unreadable,
        end=end,
    )
