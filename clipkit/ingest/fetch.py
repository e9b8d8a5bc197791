"""Rows in, bodies or reasons out: one libcurl multi loop a worker.

A URL has one deadline over all its attempts and the waits between them. What may pass is tried again,
later each time; a host never has more than its share of the connections.
"""

import heapq
import itertools
import random
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace

from clipkit.ingest.budget import Body, Budget
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.multi import Multi
from clipkit.ingest.resolve import Diagnosis, Resolve, system_resolve
from clipkit.ingest.rows import Failed, Fetched, UrlRow
from clipkit.ingest.transfer import Transfer
from clipkit.ingest.urls import Target, request_target

_LONGEST_WAIT = 0.5
_DIAGNOSIS_WAIT = 0.02


@dataclass(slots=True)
class _Job:
    index: int
    target: Target
    deadline: float = 0.0  # set by the first attempt
    attempts: int = 0


def fetch(
    rows: Iterable[UrlRow], config: IngestConfig, resolve: Resolve = system_resolve
) -> Iterator[tuple[int, Fetched | Failed]]:
    """Request the rows' URLs and yield (place in `rows`, outcome) for each, in the order they end.

    Transfers go on between two values, not while the caller works on one; a body counts against the
    worker's memory until the next value is asked for.
    """
    diagnosis = Diagnosis(resolve)
    try:
        with Multi(config) as multi:
            yield from _Fetcher(rows, config, multi, diagnosis).outcomes()
    finally:
        diagnosis.close()


class _Fetcher:
    def __init__(self, rows: Iterable[UrlRow], config: IngestConfig, multi: Multi, diagnosis: Diagnosis):
        self._config = config
        self._rows = enumerate(rows)
        self._multi = multi
        self._diagnosis = diagnosis
        self._budget = Budget(config.max_bytes)
        self._idle: list[Transfer] = []
        self._jobs: dict[Transfer, _Job] = {}
        self._waiting: list[tuple[float, int, _Job]] = []  # a heap by the time of the next attempt
        self._ready: deque[_Job] = deque()
        self._busy_hosts: defaultdict[str, int] = defaultdict(int)
        self._behind_host: defaultdict[str, deque[_Job]] = defaultdict(deque)
        self._undiagnosed: list[tuple[Future[str], _Job, Failed]] = []
        self._done: deque[tuple[int, Fetched | Failed, Body | None]] = deque()
        self._order = itertools.count()

    def outcomes(self) -> Iterator[tuple[int, Fetched | Failed]]:
        while True:
            self._start_what_may()
            if self._done:
                index, outcome, body = self._done.popleft()
                yield index, outcome
                del outcome
                if body:
                    self._budget.release(body)
                self._poll(0)
            elif self._jobs or self._waiting or self._undiagnosed:
                self._poll(self._patience())
            else:
                return

    def _patience(self) -> float:
        if self._undiagnosed:
            return _DIAGNOSIS_WAIT
        if self._waiting:
            return min(_LONGEST_WAIT, max(0.0, self._waiting[0][0] - time.monotonic()))
        return _LONGEST_WAIT

    def _start_what_may(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._ready.append(heapq.heappop(self._waiting)[2])
        while len(self._jobs) + len(self._done) < self._config.connections:
            job = self._ready.popleft() if self._ready else self._next_row()
            if job is None:
                return
            host = job.target.host
            if self._busy_hosts[host] >= self._config.connections_per_host:
                self._behind_host[host].append(job)
            else:
                self._start(job, now)

    def _next_row(self) -> _Job | None:
        for index, row in self._rows:
            target = Failed("bad_row", row.problem) if row.problem else request_target(row.url)
            if isinstance(target, Target):
                return _Job(index, target)
            self._done.append((index, target, None))
        return None

    def _start(self, job: _Job, now: float) -> None:
        job.deadline = job.deadline or now + self._config.deadline
        job.attempts += 1
        transfer = self._idle.pop() if self._idle else Transfer(self._config, self._budget)
        transfer.prepare(job.target.url, job.deadline - now)
        self._busy_hosts[job.target.host] += 1
        self._jobs[transfer] = job
        self._multi.add(transfer)

    def _poll(self, seconds: float) -> None:
        for transfer, code, message in self._multi.poll(seconds):
            job = self._jobs.pop(transfer)
            self._free_host(job.target.host)
            outcome = transfer.finished(code, message)
            if isinstance(outcome, bytes):
                fetched = Fetched(outcome, transfer.status, job.attempts)
                self._done.append((job.index, fetched, transfer.body))
            else:
                self._budget.release(transfer.body)
                self._failed(job, outcome, transfer.retry_after)
            self._idle.append(transfer)
        self._take_diagnoses()

    def _free_host(self, host: str) -> None:
        self._busy_hosts[host] -= 1
        if self._behind_host[host]:
            self._ready.append(self._behind_host[host].popleft())
        elif not self._busy_hosts[host]:
            del self._busy_hosts[host], self._behind_host[host]

    def _take_diagnoses(self) -> None:
        undiagnosed, self._undiagnosed = self._undiagnosed, []
        for answer, job, failed in undiagnosed:
            if answer.done():
                self._failed(job, replace(failed, reason=answer.result()), None, diagnosed=True)
            elif time.monotonic() >= job.deadline:
                self._done.append((job.index, replace(failed, attempts=job.attempts), None))
            else:
                self._undiagnosed.append((answer, job, failed))

    def _failed(
        self, job: _Job, failed: Failed, retry_after: float | None, *, diagnosed: bool = False
    ) -> None:
        if failed.reason == "dns_failed" and not diagnosed:
            self._undiagnosed.append((self._diagnosis.of(job.target.host), job, failed))
            return
        if failed.retryable and job.attempts <= self._config.retries:
            # Spread by chance: those that failed together do not come back together.
            wait = self._config.backoff * 2 ** (job.attempts - 1) * random.uniform(0.75, 1.25)
            due = time.monotonic() + max(wait, retry_after or 0.0)
            if due < job.deadline:
                heapq.heappush(self._waiting, (due, next(self._order), job))
                return
        self._done.append((job.index, replace(failed, attempts=job.attempts), None))
