"""Pictures with captions that a model is evaluated on by retrieval: opened, measured, described."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkit.evaluate.captions import CaptionsResult, captions_retrieval
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.pairs import embedded_pairs
from clipkit.evaluate.ranks import ALONE, Ranks
from clipkit.evaluate.retrieval import Recalls, RetrievalResult, retrieval
from clipkit.evaluate.sets import Display, no_display
from clipkit.locations import scheme_of
from clipkit.model.clip import Clip
from clipkit.shards.csv_set import CsvSet
from clipkit.shards.sample_set import SampleSet
from clipkit.shards.shard_set import ShardSet, name_of
from clipkit.tables import Cell

HEADER = ("set", "retrieval", "queries", "among", "R@1", "R@5", "R@10", "mean rank", "median rank")


@dataclass(frozen=True)
class CaptionSet:
    """A data set of pictures and captions, under the name of its folder or table."""

    name: str
    samples: SampleSet

    @property
    def path(self) -> str:
        """Where it is, for a record: an address, or a path from the root."""
        source = self.samples.source
        return source if scheme_of(source) else str(Path(source).absolute())


@dataclass(frozen=True)
class Retrieved:
    """What one model found in one set: among its pairs, and where a picture may have several captions.

    `unreadable` names the samples that were left out; `files_sha256` is that of `EmbeddedPairs`.
    """

    name: str
    pairs: RetrievalResult
    captions: CaptionsResult
    unreadable: tuple[str, ...]
    files_sha256: str

    def rows(self) -> list[tuple[Cell, ...]]:
        """Return a line of `HEADER` for each direction; several captions a picture make two more."""
        pairs, captions = self.pairs, self.captions
        rows = [
            self._row("picture → its pair's caption", pairs.pairs, pairs.pairs, pairs.image_to_text),
            self._row("caption → its pair's picture", pairs.pairs, pairs.pairs, pairs.text_to_image),
        ]
        if captions.images < captions.captions:
            images, texts = captions.images, captions.captions
            rows += [
                self._row("picture → any of its captions", images, texts, captions.image_to_text),
                self._row("caption → its picture", texts, images, captions.text_to_image),
            ]
        return rows

    def _row(self, title: str, queries: int, among: int, found: Recalls) -> tuple[Cell, ...]:
        shares = (f"{recall:.2%}" for recall in found.recalls)
        return (self.name, title, queries, among, *shares, found.mean_rank, found.median_rank)

    def figures(self) -> dict[str, Any]:
        """Return the figures for a record: OpenCLIP's names of the pairs', CLIP_benchmark's of the others."""
        return {
            "pairs": self.pairs.pairs,
            "images": self.pairs.different_images,
            "captions": self.pairs.different_captions,
            **dict(self.pairs.figures()),
            **dict(self.captions.figures()),
        }


def caption_sets(config: EvaluateConfig) -> list[CaptionSet]:
    """Open the set of `config`, if any. Raises DatasetError, SourceError for what is no such set."""
    if config.val_shards is not None:
        return [CaptionSet(name_of(config.val_shards), ShardSet(config.val_shards))]
    if config.val_csv is not None:
        table = CsvSet(config.val_csv, config.image_col, config.caption_col, config.separator)
        return [CaptionSet(config.val_csv.stem, table)]
    return []


def retrieved(
    model: Clip,
    each: CaptionSet,
    config: EvaluateConfig,
    *,
    display: Display = no_display,
    ranks: Ranks = ALONE,
) -> Retrieved:
    """Embed and rank all pairs of a set. Raises EvaluationError and DatasetError as `embedded_pairs`.

    All `ranks` call it together and get the same.
    """
    with display(each.name, len(each.samples), "pairs") as report:
        pairs = embedded_pairs(
            model,
            each.samples,
            batch_size=config.batch_size,
            workers=config.workers,
            report=report,
            ranks=ranks,
            fewest=0,  # as of classification's pictures: more than 0.1% stop it, however few they are
        )
    device = model.logit_scale.device
    with display(f"{each.name} retrieval", 2 * len(pairs.images.features_ND), "queries") as report:
        found = retrieval(pairs.images, pairs.texts, device=device, ranks=ranks, report=report)
    if found.different_images == found.pairs:  # a picture's only caption is its pair's
        captions = CaptionsResult(found.pairs, found.pairs, found.image_to_text, found.text_to_image)
    else:
        queries = found.different_images + found.pairs
        with display(f"{each.name} retrieval, all captions of a picture", queries, "queries") as report:
            captions = captions_retrieval(
                pairs.images, pairs.texts, device=device, ranks=ranks, report=report
            )
    return Retrieved(each.name, found, captions, pairs.unreadable, pairs.files_sha256)
