"""A bound on the memory that decoding takes, where a header need not say how large the picture inside is."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

_STATM = Path("/proc/self/statm")
_one_at_a_time = Lock()


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """Let this process have at most `more` bytes of addresses beside those that it has, until the end.

    Whoever asks for more is told that there is no memory. Without Linux's /proc this does nothing. Several
    threads take turns.
    """
    with _one_at_a_time:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        with suppress(OSError):
            bound = int(_STATM.read_text().split()[0]) * resource.getpagesize() + more
            if soft == resource.RLIM_INFINITY or bound < soft:
                resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
