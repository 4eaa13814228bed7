"""Background work: timers, what runs at the start and at the stop, and what requests leave to be done after their answers.

Each is a Job, run by the Lua greenlet like a request, with a deadline of its own. Failures are logged and counted; a timer never
runs twice at once. Uses gevent, errors, messages, routes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent.event import AsyncResult

from greenlua.errors import ConfigurationError
from greenlua.messages import Cancel, Failure, Job, Work
from greenlua.routes import JobRule

log = logging.getLogger("greenlua")

STOP_LEAST = 1.0
END_MOST = 5.0  # seconds for a cancelled run of a timer to end; it may be computing, or close what it had open
RUNNING_MAX = 1024  # deferred functions that run at once; the others wait


class Background:
    """The background work of one app.

    Args:
        rules: what the app declares.
        post: takes messages to the Lua greenlet; must not switch greenlets.
        timeout: seconds that a run may take whose rule does not say.
        claim: for timers that run once across workers: whether this process is to run it, by a key and seconds.
        shared: whether the store, which is asked for that, is one of all processes.
    """

    def __init__(
        self,
        rules: list[JobRule],
        post: Callable[[Any], None],
        timeout: float,
        claim: Callable[[str, float], bool],
        shared: Callable[[], bool],
    ) -> None:
        self._rules = rules
        self._post = post
        self._timeout = timeout
        self._claim = claim
        self._shared = shared
        self._timers: list[gevent.Greenlet] = []
        self._started = False
        self._ended: Failure | None = None  # why nothing can begin any more
        self._deferred_running: dict[int, Job] = {}
        self._last_index = 0
        self._deferred: deque[Job] = deque()  # those that wait for their turn
        self._running: dict[int, Job] = {}  # all that have begun, deferred ones too
        self._deadlines: dict[int, Any] = {}
        self._runs = self._failures = 0

    # ------------------------------------------------------------ its life; called by any greenlet but the Lua greenlet

    def run_start(self) -> None:
        """Runs what is to run at the start, one after the other.

        Raises:
            ConfigurationError: one of them failed.
        """
        for rule in self._of("start"):
            failure = self._run(rule, rule.timeout or self._timeout)
            if failure is not None:
                text = f"{rule.place}: app:on_start failed: {failure.message or failure.detail}"
                raise ConfigurationError(f"{text}\n{failure.traceback}" if failure.traceback else text)
        self._started = True

    def start_timers(self) -> None:
        """From now on they tick."""
        timers = self._of("every")
        alone = [rule.name for rule in timers if rule.once]
        if alone and not self._shared():
            log.warning(
                "once_across_workers (%s) needs a store that the workers share: each process has its own while the setting"
                " store_url is empty",
                ", ".join(alone),
            )
        self._timers = [gevent.spawn(self._tick, rule) for rule in timers]

    def end_timers(self) -> None:
        """Ends the timers; a run that is under way ends where it waits. None of them is in Lua any more when this returns."""
        gevent.killall(self._timers)
        deadline = monotonic() + END_MOST
        while self._running.keys() - self._deferred_running.keys():
            if monotonic() > deadline:
                log.error("a timer was still running %g seconds after it was cancelled", END_MOST)
                return
            gevent.sleep(0.001)

    def fail(self, failure: Failure) -> None:
        """There is no Lua greenlet any more: all that has begun ends with ``failure``, as does what would begin. Never switches."""
        gevent.killall(self._timers, block=False)
        self._started = False
        self._ended = failure
        self._deferred.clear()
        for job in list(self._running.values()):
            job.done(failure)

    def stop(self, timeout: float) -> None:
        """Ends the timers, waits for deferred work, and runs what is to run at the stop; all within ``timeout`` seconds.

        What runs at the stop has STOP_LEAST seconds in any case. It runs only if all that was to run at the start did.
        """
        gevent.killall(self._timers)
        deadline = monotonic() + timeout
        while self._deferred_running and monotonic() < deadline:
            gevent.sleep(0.01)
        if self._deferred:
            log.error("%d deferred functions were given up at the stop", len(self._deferred))
            self._deferred.clear()
        for job in self._deferred_running.values():
            self._post(Cancel(job.index, job.generation))
        for rule in self._of("stop") if self._started else []:
            limit = min(rule.timeout or self._timeout, max(STOP_LEAST, deadline - monotonic()))
            self._log(rule.name, {}, self._run(rule, limit))

    def _of(self, kind: str) -> list[JobRule]:
        return [rule for rule in self._rules if rule.kind == kind]

    def _tick(self, rule: JobRule) -> None:
        due = monotonic() + rule.seconds
        while True:
            gevent.sleep(max(0.0, due - monotonic()))
            due = max(due + rule.seconds, monotonic())  # a run that took longer delays the next; none is made up for
            try:
                # A little less than the interval, so that the same worker can claim the next run.
                if not rule.once or self._claim(f"every:{rule.name}", rule.seconds * 0.9):
                    self._log(rule.name, {}, self._run(rule, rule.timeout or self._timeout))
            except Exception as error:
                self._failures += 1
                log.error("the timer %s did not run: %s: %s", rule.name, type(error).__name__, error)

    def _run(self, rule: JobRule, timeout: float) -> Failure | None:
        """One run, waited for."""
        ended: AsyncResult[Failure | None] = AsyncResult()
        job = self._job(rule.number, rule.name, {}, ended.set)
        self._begin(job, timeout)
        try:
            return ended.get()
        except BaseException:  # the timer is killed: its run ends with it
            self._post(Cancel(job.index, job.generation))
            raise

    # ------------------------------------------------------------ deferred work; called by the Lua greenlet

    def defer(self, number: int, environ: dict[str, Any]) -> None:
        """Runs a function that a request has left, when there is a place for it."""
        job = self._job(number, "ctx:defer", environ, lambda failure: self._deferred_done(job, failure))
        if len(self._deferred_running) < RUNNING_MAX:
            self._begin_deferred(job)
        else:
            self._deferred.append(job)

    def _begin_deferred(self, job: Job) -> None:
        self._deferred_running[job.index] = job
        self._begin(job, self._timeout)

    def _deferred_done(self, job: Job, failure: Failure | None) -> None:
        self._log(job.name, job.environ, failure)
        del self._deferred_running[job.index]
        if self._deferred:
            self._begin_deferred(self._deferred.popleft())

    # ------------------------------------------------------------ one job

    def _job(self, number: int, name: str, environ: dict[str, Any], told: Callable[[Failure | None], None]) -> Job:
        self._last_index -= 1
        index = self._last_index

        def done(failure: Failure | None) -> None:
            del self._running[index]
            self._deadlines.pop(index).close()
            if failure is not None:
                self._failures += 1
            told(failure)

        return Job(index, number, name, environ, done)

    def _begin(self, job: Job, timeout: float) -> None:
        self._runs += 1
        self._running[job.index] = job
        timer = self._deadlines[job.index] = gevent.get_hub().loop.timer(timeout)
        timer.start(self._post, Cancel(job.index, job.generation))
        if self._ended is not None:
            job.done(self._ended)
            return
        self._post(Work(job))

    def _log(self, name: str, environ: dict[str, Any], failure: Failure | None) -> None:
        if failure is not None:
            request_id = environ.get("greenlua.request_id")
            log.error(
                "background work %s%s: %s%s",
                name,
                f" [{request_id}]" if request_id else "",
                failure.message or failure.detail,
                "\n" + failure.traceback if failure.traceback else "",
            )

    def statistics(self) -> dict[str, int]:
        """``runs`` begun and ``failures`` since the start; ``deferred``: functions that requests left, running or waiting."""
        return {
            "runs": self._runs,
            "failures": self._failures,
            "deferred": len(self._deferred_running) + len(self._deferred),
        }
