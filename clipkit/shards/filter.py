"""`clipkit shards filter`: the samples that fulfil a condition, or one side of a split, as a dataset."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, SkipValidation, model_validator

from clipkit.errors import DatasetError
from clipkit.locations import each_of, is_remote
from clipkit.progress import Progress
from clipkit.shards.dataset import DATASET_FILE
from clipkit.shards.derive import Choice, Derived, Display, check_out, derive
from clipkit.shards.format import sample_key
from clipkit.shards.half_repaired import check_not_half_repaired
from clipkit.shards.index import IndexEntry
from clipkit.shards.keys import read_keys
from clipkit.shards.original import REMEDY, Flags, Original, sha256_words
from clipkit.shards.split import in_validation
from clipkit.shards.where import Where
from clipkit.shards.whole import check_openable
from clipkit.tables import size, table
from clipkit.units import Part

_BATCH_ROWS = 50_000
_NAMED = 10  # samples of a shard


class FilterConfig(BaseModel):
    """What to keep: samples of `keys`, not of `without_keys`, for which `where` holds, one side of a `split`.

    `split` is the validation part's share of the pictures. Without `part` both sides are made, `train` and
    `val`. With `skip_broken` what is broken is left out and named: of a tar that is not as the index says
    the samples that are not as the manifest says, or the whole shard where nothing tells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: SkipValidation[Path | None] = None  # also an address
    without_keys: SkipValidation[Path | None] = None
    where: str | None = None
    split: Part | None = None
    part: Literal["train", "val"] | None = None
    skip_broken: bool = False

    @model_validator(mode="after")
    def _has_a_purpose(self) -> Self:
        chosen = (self.keys, self.without_keys, self.where, self.split)
        if all(each is None for each in chosen) and not self.skip_broken:
            raise ValueError(
                "give at least one of --where, --keys, --without-keys, --split and --skip-broken"
            )
        if self.part and self.split is None:
            raise ValueError("--part needs --split, the share of the validation part")
        return self


class FilterResult(NamedTuple):
    """What became of the original's samples. `lost` has the broken shards, each with what is wrong and how
    many of its samples are left out for it.
    """

    original: str
    samples: int
    written: list[Derived]
    lost: dict[str, str]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        return self._asdict() | {"written": [each._asdict() for each in self.written]}

    def lines(self) -> str:
        """Return the counts as aligned tables."""
        blocks = []
        for each in self.written:
            counts: list[tuple[str, str | int]] = [("samples of the original", self.samples)]
            counts += [(f"left out: {cause}", count) for cause, count in each.left_out.items()]
            counts += [
                ("kept", each.samples),
                ("shards", each.shards),
                ("bytes", size(each.bytes)),
                ("report", each.report),
            ]
            how = "was finished already" if each.was_complete else f"{self.seconds:.1f} s"
            blocks.append(f"{each.out}: {how}\n{table([(name, _shown(value)) for name, value in counts])}")
        if self.lost:
            blocks.append("Broken shards:\n" + "\n".join(self.lost.values()))
        return "\n\n".join(blocks)


def filter_dataset(
    directory: Path, out: Path, config: FilterConfig, progress: Display = Progress
) -> FilterResult:
    """Derive from the dataset in `directory` what `config` says; both sides of a split go below `out`.

    Raises as `derive` and `Where` do.
    """
    begun = time.monotonic()
    if config.skip_broken:  # of which the repair mends some
        check_not_half_repaired(directory)
    original = Original(directory)
    parts = [config.part] if config.part or config.split is None else ["train", "val"]
    outs = {part: out / str(part) if len(parts) > 1 else out for part in parts}
    if len(parts) > 1 and (out / DATASET_FILE).exists():
        raise DatasetError(
            f"{out}: expected a folder for two datasets, found a dataset; choose another --out"
        )
    for each in outs.values():
        check_out(original, each)
    listed = _listed(original, config)
    broken = _broken(original, progress) if config.skip_broken else {}
    flags = _flags(original, config, broken, progress)
    choices = {outs[part]: _choice(config, part, listed, flags, broken) for part in parts}
    written = derive(original, choices, progress)
    lost = {name: each.words for name, each in broken.items()}
    return FilterResult(str(directory), original.samples, written, lost, time.monotonic() - begun)


class _Broken(NamedTuple):
    """What is wrong with a shard, and which of its samples are whole nevertheless."""

    words: str
    whole: Flags

    @property
    def lost(self) -> int:
        return int((~self.whole).sum())


class _Listed(NamedTuple):
    """Which samples the files of keys leave, and the files' hashes by option, for those that were given."""

    leaves: Flags
    files: dict[str, str]


def _listed(original: Original, config: FilterConfig) -> _Listed:
    listed = _Listed(np.ones(original.samples, dtype=np.bool_), {})
    for name, path, stay in (("keys", config.keys, True), ("without_keys", config.without_keys, False)):
        if path is not None:
            keys = read_keys(path, original, f"--{name.replace('_', '-')}")
            named = np.zeros_like(listed.leaves)
            named[keys.places] = True
            listed.leaves[named != stay] = False
            listed.files[name] = keys.sha256
    return listed


class _Flags(NamedTuple):
    """One of each a sample: whether it is whole, it meets the condition, it is for validation."""

    whole: Flags
    meets: Flags
    validation: Flags


def _choice(
    config: FilterConfig, part: str | None, listed: _Listed, flags: _Flags, broken: dict[str, _Broken]
) -> Choice:
    on_side = flags.validation == (part == "val") if part else np.ones_like(flags.whole)
    named = flags.whole & listed.leaves
    meets = named & flags.meets
    of_keys = {"keys": int((flags.whole & ~named).sum())} if listed.files else {}
    left_out = {
        "broken": int((~flags.whole).sum()),
        **of_keys,
        "where": int((named & ~meets).sum()),
        "split": int((meets & ~on_side).sum()),
    }
    return Choice(
        keep=meets & on_side,
        command="filter",
        settings=config.model_dump(include={"where", "split"}) | {"part": part} | listed.files,
        left_out=left_out,
        lost={name: each.lost for name, each in broken.items() if each.lost},
    )


def _broken(original: Original, progress: Display) -> dict[str, _Broken]:
    """Read everything; return by name the shards that are not as the index says.

    Raises OSError for a file that is there and may not be opened: nothing is known of it.
    """
    if not is_remote(original.directory):
        tars = [original.directory / shard.name for shard in original.shards]
        check_openable(path for tar in tars for path in (tar, tar.with_suffix(".parquet")))
    broken = {}

    def manifest_of(shard: IndexEntry) -> DatasetError | None:
        try:
            original.manifest(shard)
        except DatasetError as error:
            return error
        return None

    manifests = each_of(manifest_of, original.shards, remote=is_remote(original.directory))
    with progress("check", len(original.shards), "shards") as display:
        for number, shard in enumerate(original.coming(original.shards), 1):
            try:
                if error := next(manifests):
                    raise error
                with original.tar(shard):
                    pass
            except DatasetError as error:
                broken[shard.name] = _what_is_whole(original, shard, error)
                display.say(f"check: {broken[shard.name].words}")
            display.update(number)
    return broken


def _what_is_whole(original: Original, shard: IndexEntry, error: DatasetError) -> _Broken:
    try:
        whole = original.whole_samples(shard)
    except DatasetError:
        whole = np.zeros(shard.samples, dtype=np.bool_)
    lost = np.flatnonzero(~whole).tolist()
    words = str(error).removesuffix(REMEDY)  # which is what is being done
    words += f"; left out {len(lost):,} of {shard.samples:,} samples"
    if 0 < len(lost) < shard.samples:
        named = [sample_key(int(shard.name[:6]), row) for row in lost[:_NAMED]]
        words += f": {', '.join(named)}{', …' if len(lost) > _NAMED else ''}"
    return _Broken(words, whole)


def _flags(original: Original, config: FilterConfig, broken: dict[str, _Broken], progress: Display) -> _Flags:
    where = Where(config.where, original.schema) if config.where is not None else None
    columns = set(where.columns if where else ()) | ({"sha256"} if config.split else set())
    ordered = [name for name in original.schema.names if name in columns]
    flags = _Flags(*(np.zeros(original.samples, dtype=np.bool_) for _ in _Flags._fields))
    start = 0
    with progress("select", original.samples, "samples") as display:
        for manifests, whole in _batches(original, ordered, broken):
            rows = np.s_[start : start + len(whole)]
            flags.whole[rows] = whole
            meets = where.of(manifests) if where else np.ones(int(whole.sum()), dtype=np.bool_)
            flags.meets[rows][whole] = meets
            if config.split:
                words = sha256_words(manifests["sha256"].filter(pa.array(meets)), original.directory)
                flags.validation[rows][np.flatnonzero(whole)[meets]] = in_validation(words, config.split)
            start += len(whole)
            display.update(start)
    return flags


def _batches(
    original: Original, columns: list[str], broken: dict[str, _Broken]
) -> Iterator[tuple[pa.Table, Flags]]:
    """Yield some shards' manifests at a time, as one table, and for each sample whether it is in there."""
    tables, whole = [original.schema.empty_table().select(columns)], [np.zeros(0, dtype=np.bool_)]
    lost = {name for name, each in broken.items() if not each.whole.any()}
    needed = [shard for shard in original.shards if columns and shard.name not in lost]
    manifests = original.manifests(needed, columns)
    for shard in original.shards:
        damaged = broken.get(shard.name)
        whole.append(damaged.whole if damaged else np.ones(shard.samples, dtype=np.bool_))
        if columns and shard.name not in lost:
            _, manifest = next(manifests)
            tables.append(manifest.filter(pa.array(damaged.whole)) if damaged else manifest)
        if sum(map(len, whole)) >= _BATCH_ROWS:
            yield pa.concat_tables(tables), np.concatenate(whole)
            tables, whole = tables[:1], whole[:1]
    yield pa.concat_tables(tables), np.concatenate(whole)


def _shown(value: str | int) -> str:
    return value if isinstance(value, str) else f"{value:,}"
