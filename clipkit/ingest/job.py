"""What is known of a URL on its way."""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

from clipkit.ingest.incoming import Key
from clipkit.ingest.resolve import Answer
from clipkit.ingest.rows import Failed
from clipkit.ingest.transfer import Transfer
from clipkit.ingest.urls import Target

_HELD_BACK = Failed("rate_limited", "its host asked us to wait for longer than the deadline")


@dataclass(slots=True)
class Job(Generic[Key]):
    """A URL, and how far it has come; times are the clock's, which stands still at times."""

    key: Key
    target: Target
    deadline: float = 0.0  # set by the first attempt
    attempts: int = 0
    begun: float = 0.0  # the last attempt
    asked: float = 0.0  # the same in real time
    failed: Failed = _HELD_BACK  # what it ends as if its deadline comes now


class Pending(NamedTuple):
    """A request that waits, since then, for the addresses of its host, or for the end of others there."""

    answer: Future[Answer] | None
    since: float
    job: Job[Any]
    transfer: Transfer
    target: Target

    @property
    def is_named(self) -> bool:
        """Whether it is known where its host is, or that it is not, or no name was asked for."""
        return not self.answer or self.answer.done()

    @property
    def found(self) -> Answer:
        """What is known of that then."""
        return self.answer.result() if self.answer else []
