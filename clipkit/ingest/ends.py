"""How rows end: at once, or once it is known that it was not for want of a network."""

from collections import deque
from dataclasses import replace
from typing import Generic

from clipkit.ingest.budget import Body
from clipkit.ingest.incoming import Key
from clipkit.ingest.job import Job
from clipkit.ingest.outage import Outage, may_be_cut_off
from clipkit.ingest.rows import Failed, Fetched


class Ends(Generic[Key]):
    """The outcomes that the caller has not had yet, and the failures that are none if there is no network."""

    def __init__(self, outage: Outage):
        self._outage = outage
        self._outcomes: deque[tuple[Key, Fetched | Failed, Body | None]] = deque()
        self._doubtful: list[Job[Key]] = []

    def __len__(self) -> int:
        """Return how many outcomes there are to take."""
        return len(self._outcomes)

    @property
    def are_doubtful(self) -> bool:
        """Whether there are failures of which it is not known yet whether they are some."""
        return bool(self._doubtful)

    def add(self, key: Key, outcome: Fetched | Failed, body: Body | None = None) -> None:
        """Note an outcome, whose bytes lie in `body` if that counts against the worker's memory."""
        self._outcomes.append((key, outcome, body))

    def take(self) -> tuple[Key, Fetched | Failed, Body | None]:
        """Return the first outcome of those noted."""
        return self._outcomes.popleft()

    def fail(self, job: Job[Key]) -> Job[Key] | None:
        """End a job by what it failed of; returns one to begin instead if there is no network."""
        if not (self._outage.is_in_doubt and may_be_cut_off(job.failed)):
            self.add(job.key, replace(job.failed, attempts=job.attempts))
        elif self._outage.is_sure:
            return Job(job.key, job.target)  # as if it had never been tried
        else:
            self._doubtful.append(job)
        return None

    def settle(self) -> list[Job[Key]]:
        """End the doubtful jobs if there is no doubt any more; returns those to begin instead."""
        if not self._doubtful or (self._outage.is_in_doubt and not self._outage.is_sure):
            return []
        doubtful, self._doubtful = self._doubtful, []
        return [again for job in reversed(doubtful) if (again := self.fail(job)) is not None]
