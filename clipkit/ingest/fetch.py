"""Rows in, bodies or reasons out: one libcurl multi loop a worker.

A URL has one deadline over all its attempts and the waits between them; a standstill of the whole process
does not count, nor does the time without a network. What may pass is tried again, later each time; a host
never has more than its share of the connections, one that asks us to wait is left alone, and one that
answers nothing, while others do, keeps them only now and then.
"""

import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Generic

from clipkit.clock import Clock
from clipkit.ingest.budget import Budget
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.ends import Ends
from clipkit.ingest.hosts import Hosts, asks_for_a_pause
from clipkit.ingest.incoming import Incoming, Key
from clipkit.ingest.job import Job, Pending
from clipkit.ingest.limits import Limits
from clipkit.ingest.multi import Multi
from clipkit.ingest.outage import Outage, is_unheard, may_be_cut_off
from clipkit.ingest.preflight import is_reachable
from clipkit.ingest.resolve import Answer, Names, Resolve, system_resolve
from clipkit.ingest.rows import Failed, Fetched, Limit, UrlRow
from clipkit.ingest.silence import Silence
from clipkit.ingest.tar_rows import RowReader
from clipkit.ingest.transfer import Transfer
from clipkit.ingest.unheard import Unheard
from clipkit.ingest.urls import Target, request_target

_POLL_SECONDS = 0.1  # between two looks at the transfers while the caller has work
_SILENT = Failed("timeout", "its host answered none of the requests before")


def fetch(
    rows: Iterable[tuple[Key, UrlRow] | None],
    config: IngestConfig,
    resolve: Resolve = system_resolve,
    limited_by: Callable[[str, Limit], None] = lambda host, limit: None,
) -> Iterator[tuple[Key, Fetched | Failed] | None]:
    """Request the rows' URLs, or read their files, and yield (the row's key, outcome) in the order they end.

    A None among `rows` says that the next row is not there yet; it is asked for again soon. A None among
    the values says that nothing has ended for a while. Transfers go on between two values, not while the
    caller works on one; a body counts against the worker's memory until the next value is asked for.
    `limited_by` is told a host, again and again, while connections are free and only its URLs could start,
    and why; while there is no network, one that answered last. Raises NetworkError if that lasts an hour.
    """
    outage = Outage(lambda target: is_reachable(target, config, resolve))
    hosts: Hosts[Job[Key]] = Hosts(config.connections_per_host)
    with Multi(config, hosts.connections) as multi:
        yield from _Fetcher(rows, config, hosts, multi, Names(resolve), outage, limited_by).outcomes()


class _Fetcher(Generic[Key]):
    def __init__(
        self,
        rows: Iterable[tuple[Key, UrlRow] | None],
        config: IngestConfig,
        hosts: Hosts[Job[Key]],
        multi: Multi,
        names: Names,
        outage: Outage,
        limited_by: Callable[[str, Limit], None],
    ):
        self._config = config
        self._rows = Incoming(rows)
        self._clock = Clock()
        self._multi = multi
        self._names = names
        self._outage = outage
        # The other proxies look names up themselves.
        self._names_wanted = not config.proxy or config.proxy.startswith(("socks4:", "socks5:"))
        self._files = RowReader()
        self._budget = Budget(config.max_bytes)
        self._hosts = hosts
        self._unheard = Unheard(config.connections)
        self._silence = Silence(config.timeout, config.deadline)
        self._idle: list[Transfer] = []
        self._jobs: dict[Transfer, Job[Key]] = {}
        # A heap by the time of the next attempt; those tried before first, whose own time runs.
        self._waiting: list[tuple[float, bool, int, Job[Key]]] = []
        self._ready: deque[Job[Key]] = deque()
        self._pending: list[Pending] = []
        self._ends: Ends[Key] = Ends(outage)
        self._order = itertools.count()
        self._poll_due, self._begun = 0.0, 0
        self._limits = Limits(limited_by)

    def outcomes(self) -> Iterator[tuple[Key, Fetched | Failed] | None]:
        while True:
            self._start_what_may()
            self._note_limit()
            if self._ends:
                key, outcome, body = self._ends.take()
                yield key, outcome
                del outcome
                if body:
                    self._budget.release(body)
                # Looked at one by one, transfers cost twice as much; left alone for long, connections idle.
                if self._begun >= self._config.connections / 8 or self._clock.now() >= self._poll_due:
                    self._poll(0)
            elif self._rows.exhausted and not (
                self._jobs or self._waiting or self._pending or self._ready or self._ends.are_doubtful
            ):
                return
            else:
                self._poll(self._patience())
                if not self._ends:
                    yield None

    def _patience(self) -> float:
        patience = self._rows.patience(soon=bool(self._pending) or self._ends.are_doubtful)
        if self._waiting and not self._clock.is_stopped:
            return min(patience, max(0.0, self._waiting[0][0] - self._clock.now()))
        return patience

    @property
    def _busy(self) -> int:
        return len(self._jobs) + len(self._pending) + len(self._ends) - self._unheard.count

    def _start_what_may(self) -> None:
        stopped = self._clock.is_stopped = self._outage.is_on()
        self._ready.extend(self._ends.settle())
        now = self._clock.now()
        while self._waiting and self._waiting[0][0] <= now:
            self._ready.append(heapq.heappop(self._waiting)[3])
        while self._busy < self._config.connections and (not stopped or self._outage.may_try()):
            if self._ready:
                self._start(self._ready.popleft(), now)
            elif not self._take_row(now):
                return

    def _note_limit(self) -> None:
        if self._outage.is_sure:
            self._limits.tell(self._outage.last_host, "network")
            return
        now = self._clock.now()
        self._limits.note(None if self._busy >= self._config.connections else self._limit(now), now)

    def _limit(self, now: float) -> tuple[str, Limit] | None:
        if host := self._hosts.busiest():
            limit: Limit = "pause" if self._hosts.is_slowed(host) else "share"
            return (host, limit) if self._silence.has_answered(host) else None  # nor would it with more
        host = self._waiting[0][3].target.host if self._waiting else None
        return (host, "pause") if host and self._hosts.paused_until(host, now) else None

    def _take_row(self, now: float) -> bool:
        if (following := self._rows.next()) is None:
            return False
        key, row = following
        if row.file is not None and not row.problem:
            self._ends.add(key, self._files.read(row, self._config.max_bytes))
            return False  # its bytes are taken before more are read
        target = Failed(row.reason, row.problem) if row.problem else request_target(row.url)
        if isinstance(target, Target):
            self._start(Job(key, target), now)
        else:
            self._ends.add(key, target)
        return True

    def _start(self, job: Job[Key], now: float) -> None:
        host = job.target.host
        if self._silence.is_expected(host, now) or (job.deadline and job.deadline <= now):
            job.failed = job.failed if job.deadline else _SILENT
            self._make_ready(self._ends.fail(job))
            self._make_ready(self._hosts.following(host))
        elif paused := self._hosts.paused_until(host, now):
            self._wait(job, paused, now)
        elif self._hosts.enter(host, job, first=job.deadline > 0):
            job.deadline = job.deadline or now + self._config.deadline
            job.attempts += 1
            job.begun, job.asked = now, time.monotonic()
            self._silence.asked(host, now)
            transfer = self._idle.pop() if self._idle else Transfer(self._config, self._budget)
            transfer.prepare(again=job.attempts > 1)
            self._ask(job, transfer, job.target, now)

    def _ask(self, job: Job[Key], transfer: Transfer, target: Target, now: float) -> None:
        wanted = self._names_wanted and not target.is_address
        answer = self._names.of(target.host, now) if wanted else None
        if (answer and not answer.done()) or not self._multi.has_room(target):
            self._pending.append(Pending(answer, now, job, transfer, target))
        else:
            self._begin(job, transfer, target, answer.result() if answer else [], now)

    def _begin(self, job: Job[Key], transfer: Transfer, target: Target, found: Answer, now: float) -> None:
        if isinstance(found, str):
            self._unbegun(job, transfer, Failed(found, f"Could not resolve host: {target.host}"))
        elif target is not job.target and (paused := self._hosts.paused_until(target.host, now)):
            self._make_ready(self._hosts.leave(job.target.host))
            job.failed = Failed("rate_limited", "the host of its redirect asked us to wait", transfer.status)
            self._note_answer(job, job.failed)
            self._idle.append(transfer)
            job.attempts -= 1
            self._wait(job, paused, now)  # and then begins anew
        else:
            transfer.ask(target, job.deadline - now, found)
            self._jobs[transfer] = job
            self._multi.add(transfer)
            self._begun += 1

    def _unbegun(self, job: Job[Key], transfer: Transfer, failed: Failed) -> None:
        self._make_ready(self._hosts.leave(job.target.host))
        failed = replace(failed, http_status=transfer.status or None)  # of a redirect to here
        self._note_answer(job, failed)
        self._failed(job, failed, None, job.target.host)
        self._idle.append(transfer)

    def _take_pending(self) -> None:
        pending, self._pending = self._pending, []
        now = self._clock.now()
        for each in pending:
            if each.is_named and (now >= each.job.deadline or self._multi.has_room(each.target)):
                self._begin(each.job, each.transfer, each.target, each.found, now)
            elif not each.is_named and now >= min(each.job.deadline, each.since + self._config.timeout):
                self._unbegun(each.job, each.transfer, Failed("timeout", "Resolving timed out"))
            else:
                self._pending.append(each)

    def _make_ready(self, job: Job[Key] | None) -> None:
        if job is not None:
            self._ready.append(job)

    def _wait(self, job: Job[Key], until: float, now: float) -> None:
        # What was never tried waits while its host is getting on: else a short pause of a host that most of
        # the list is of would end all that is behind it.
        worth = self._hosts.worth_waiting_until(job.target.host, now, self._config.deadline)
        if until < (job.deadline or worth):
            heapq.heappush(self._waiting, (until, not job.deadline, next(self._order), job))
        else:
            self._make_ready(self._ends.fail(job))

    def _poll(self, seconds: float) -> None:
        for transfer, code, message in self._multi.poll(seconds):
            job = self._jobs.pop(transfer)
            outcome = transfer.finished(code, message)
            if isinstance(outcome, Target):
                self._budget.release(transfer.body)
                self._ask(job, transfer, outcome, self._clock.now())
                continue
            self._make_ready(self._hosts.leave(job.target.host))
            self._note_answer(job, outcome)
            if not asks_for_a_pause(outcome, transfer.retry_after):
                for host in {job.target.host, transfer.target.host}:
                    self._make_ready(self._hosts.answered(host))
            if isinstance(outcome, bytes):
                self._ends.add(job.key, Fetched(outcome, transfer.status, job.attempts), transfer.body)
            else:
                self._budget.release(transfer.body)
                self._failed(job, outcome, transfer.retry_after, transfer.target.host)
            self._idle.append(transfer)
        self._take_pending()
        now = self._clock.now()
        heard = self._silence.is_heard(now)  # else it may be the network that is silent
        asked = [job.begun for transfer, job in self._jobs.items() if heard and not transfer.status]
        self._unheard.note(asked, [each.since for each in self._pending if heard], now)
        self._poll_due, self._begun = now + _POLL_SECONDS, 0

    def _note_answer(self, job: Job[Key], outcome: Failed | bytes) -> None:
        if isinstance(outcome, bytes) or outcome.http_status:
            self._silence.answered(job.target.host, self._clock.now())
            self._outage.heard(job.target, job.asked)
            return
        if is_unheard(outcome):
            self._outage.unheard()
        if outcome.reason == "timeout":
            self._silence.unanswered(job.target.host, job.begun, self._clock.now())

    def _failed(self, job: Job[Key], failed: Failed, retry_after: float | None, asked: str) -> None:
        job.failed = failed
        if self._outage.is_sure and may_be_cut_off(failed):
            self._make_ready(self._ends.fail(job))
            return
        now = self._clock.now()
        # Spread by chance: those that failed together do not come back together.
        backoff = self._config.backoff * 2 ** (job.attempts - 1) * random.uniform(0.75, 1.25)
        due = now + max(backoff, retry_after or 0.0)
        if asks_for_a_pause(failed, retry_after):
            for host in {job.target.host, asked}:  # which a redirect may have led to
                for behind in self._hosts.pause(host, due, now):
                    self._wait(behind, due, now)
        if failed.retryable and job.attempts <= self._config.retries:
            self._wait(job, due, now)
        else:
            self._make_ready(self._ends.fail(job))
