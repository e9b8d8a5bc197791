"""What limits a stream of samples whose steps were measured, and what to change."""

from typing import NamedTuple

_AS_PROMISED = 0.7  # of what the steps alone promise: a whole slower than that has another cause
_LARGER = 1.5  # short sides of the model's: below, smaller pictures would be enlarged, or nearly
_TOGETHER = 1.3  # as fast as one at a time: below, more reads at a time bring nothing


class Figures(NamedTuple):
    """What was measured: seconds a sample of each step, samples/s, pixels of short sides.

    `reads_alone` is of one read at a time, `reads` of as many as there are workers, both with nothing else.
    """

    seconds: dict[str, float]
    reads_alone: float
    reads: float
    whole: float
    workers: int
    cpus: int
    short_side: int
    image_size: int


def judged(found: Figures) -> tuple[str, str]:
    """Return what limits a stream of these figures, and what helps."""
    work = {name: each for name, each in found.seconds.items() if name != "device_copy"}
    promised = min(max(1, found.workers), found.cpus) / sum(work.values())
    if found.seconds.get("device_copy", 0) * found.whole > _AS_PROMISED:
        return "device_copy", "copies fill the way to the GPU: a faster bus, or a smaller picture size"
    step = max(work, key=lambda name: work[name])
    if step == "read" or (found.reads < promised and found.whole > _AS_PROMISED * found.reads):
        return "read", _to_read_faster(found)
    if found.whole < _AS_PROMISED * promised:
        return "workers", (
            f"{promised:,.0f} samples/s were to be expected of the steps: look for other work on the CPUs, a "
            f"limit on this container's CPUs, little memory, or a slow /dev/shm; {step} takes most"
        )
    if found.workers < found.cpus:
        return step, f"more --workers, up to the number of CPUs: {found.cpus}"
    if step == "decode" and found.short_side >= _LARGER * found.image_size:
        return step, (
            f"smaller pictures: their short side is {found.short_side:,} pixels, the model takes "
            f"{found.image_size:,} (`clipkit ingest --image-size`); or more CPUs"
        )
    return step, {
        "decode": "more CPUs",
        "augment": "more CPUs; a run with colour jitter, which is not measured here, takes longer yet",
        "collate": "more CPUs",
    }[step]


def _to_read_faster(found: Figures) -> str:
    at_once = max(1, found.workers)
    if at_once > 1 and found.reads < _TOGETHER * found.reads_alone:
        return (
            f"a faster or nearer disk: {at_once} reads at a time are hardly faster than one, so that more "
            "--workers would not help"
        )
    return "a faster or nearer disk; or more --workers, so that more reads wait at a time"
