"""The Lua greenlet: the one greenlet that ever enters the VM.

It drains the channel in batches, runs each Call in the VM, fills slots with what comes out, and hands operations to those who
perform them. Nothing here waits except the drain. Uses channel, slots, meter, vm, operations, messages.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent.event import AsyncResult

from greenlua.channel import Channel, Message
from greenlua.errors import Bug, OutOfMemoryError
from greenlua.memory import Trimmer
from greenlua.messages import (
    EVENT_CANCEL,
    EVENT_DEFER,
    EVENT_FAILURE,
    EVENT_LOG,
    EVENT_OPERATION,
    EVENT_WIDTH,
    STREAMED,
    Call,
    Cancel,
    Failure,
    Inspect,
    Job,
    Operation,
    Reply,
    Resume,
    Work,
)
from greenlua.meter import Meter
from greenlua.operations import Operations
from greenlua.reports import log_failure, subject
from greenlua.slots import ABANDONED, EXPIRED, STREAMING, WAITING, Slot, SlotPool
from greenlua.vm import PUSH_MARGIN, VM

log = logging.getLogger("greenlua")
app_log = logging.getLogger("greenlua.app")

_LEVELS = {b"debug": logging.DEBUG, b"info": logging.INFO, b"warning": logging.WARNING, b"error": logging.ERROR}
HANDLER_FAILED = "the handler failed"
_GIVEN_UP = Failure(503, "the request was given up")
_TOO_LONG = Failure(504, "its time was over")
_BUG = Failure(500, "a bug in greenlua; the log has it")
OUT_OF_MEMORY = "the Lua VM is out of memory (setting memory_limit)"
WARN_EVERY = 60.0  # seconds between two warnings of memory
COLLECT_EVERY = 1.0  # seconds between two searches for garbage in a VM that is full; each takes a good part of one


class Dispatcher:
    """Drives one VM from one greenlet.

    Args:
        vm: a loaded VM; from `start` on nobody else may touch it.
        channel, pool: where Calls come from, and whose slots are filled.
        operations: performs what handlers wait for.
        batch_max: the largest number of Calls in one batch.
        meter: the VM's.

    Attributes:
        defer: takes the number of a function that a request has left to be run, and the request's environ.
        on_death: called in the hub when the Lua greenlet has ended without `stop`.
    """

    def __init__(
        self, vm: VM, channel: Channel, pool: SlotPool, operations: Operations, batch_max: int, meter: Meter
    ) -> None:
        self._vm = vm
        self._meter = meter
        # PERF: what needs no look at the VM's memory is one comparison a batch, and one a request.
        self._current: Message | None = None  # what Lua works on
        self._collect_above = vm.collect_above
        self._warn_above = (vm.memory_limit or sys.maxsize) * 0.8
        self._look_again = 0.0
        self._full_until = 0.0
        self._full_since: float | None = None
        self._channel = channel
        self._pool = pool
        self._batch_max = batch_max
        self._operations = operations
        self._jobs: dict[int, Job] = {}  # those that run, by their index
        self.defer: Callable[[int, dict[str, Any]], None] = lambda number, environ: None
        self.on_death: Callable[[], None] = lambda: None
        self._greenlet: gevent.Greenlet | None = None
        meter.wanted = self._is_wanted
        self._ends = False  # it ends, by `stop` or by itself
        self._served = self._failed = self._skipped = self._batches = self._largest = 0

    def start(self) -> None:
        """Starts the Lua greenlet."""
        self._greenlet = gevent.spawn(self._live)
        self._greenlet.link(lambda _: self._died())

    def _live(self) -> None:
        try:
            self._run()
        except Exception:
            log.exception("the Lua greenlet failed; this is a bug in greenlua")

    def _died(self) -> None:
        """In the hub. Linked, so that it is called also when somebody kills the greenlet, even before it has begun."""
        if not self._ends:
            self._ends = True
            self.on_death()

    def fail_all(self, failure: Failure) -> None:
        """The Lua greenlet is dead: everyone who waits for Lua gets ``failure``, and streams are cut."""
        for slot in self._pool.slots:
            if slot.state in (WAITING, EXPIRED, STREAMING, ABANDONED):
                self._failed += 1
                if slot.call is not None and slot.call.outgoing is not None:
                    slot.call.outgoing.finish(failed=True)
                self._pool.fill(slot, slot.generation, failure)

    def stop(self) -> None:
        """Closes what still waits in Lua, with its ``<close>`` values, and ends every operation and the Lua greenlet."""
        if self._ends:
            return  # it is dead
        self._ends = True
        for slot in self._pool.slots:
            if slot.state in (WAITING, EXPIRED, STREAMING, ABANDONED):
                self._channel.post(Cancel(slot.index, slot.generation))
        for job in self._jobs.values():
            self._channel.post_job(Cancel(job.index, job.generation))
        # Each comes behind them in its lane.
        self.inspect()
        self._pass(self._channel.post_job)
        self._operations.stop()
        if self._greenlet is not None:
            self._greenlet.kill()

    def abandoned(self, slot: Slot) -> None:
        """Called by the pool when a waiter has left early: the coroutine is closed in a later batch."""
        self._channel.post(Cancel(slot.index, slot.generation))

    # ------------------------------------------------------------ the Lua greenlet

    def _run(self) -> None:
        drain, recycle, batch_max = self._channel.drain, self._pool.recycle, self._batch_max
        look = Trimmer().look
        while True:
            batch = drain(batch_max)
            recycle()
            self._batches += 1
            look()
            if self._vm.used() > self._warn_above:
                self._watch_memory()
            if len(batch) > self._largest:
                self._largest = len(batch)
            for message in batch:
                self._current = message
                try:
                    self._handle(message)
                except self._vm.OutOfMemory:
                    self._vm.collect()
                    self._give_up(message, Failure(500, HANDLER_FAILED, OUT_OF_MEMORY))
                except Exception:
                    # A Lua failure is a value by now, so this is ours. One request is lost, not the Lua greenlet.
                    log.exception("the Lua greenlet could not handle a %s", type(message).__name__)
                    self._give_up(message, _BUG)
            self._current = None
            self.publish()
            if self._meter.interrupted is not None or self._full_since is not None:
                self._check_health()

    def _handle(self, message: Message) -> None:
        if isinstance(message, Call):
            slot = message.slot
            if slot.state is not WAITING:  # its time ran out, or its client left, while it was queued
                self._skipped += 1
                self._pool.fill(slot, slot.generation, _GIVEN_UP)
                return
            slot.call = message
            if self._vm.used() > self._collect_above and not self._make_room(slot):
                return
            answer = self._vm.start(slot.index, slot.generation, message.number, *message.params)
            if answer is not None:
                self._settle(slot, slot.generation, answer)
        elif isinstance(message, Resume):
            operation = message.operation
            if operation.size:
                self._operations.release(operation)
            answer = self._vm.resume(operation.number, message.ok, message.shape, message.scalars)
            if answer is not None:
                self._settle(operation.owner, operation.generation, answer)
        elif isinstance(message, Cancel):
            if self._vm.cancel(message.index, message.generation):  # otherwise it is still queued, or has just ended
                self._given_up(message.index)
        elif isinstance(message, Work):
            job = message.job
            self._jobs[job.index] = job
            answer = self._vm.start(job.index, job.generation, job.number)
            if answer is not None:
                self._settle(job, job.generation, answer)
        else:
            message.answer.set(self._vm.statistics())

    # ------------------------------------------------------------ memory

    def _watch_memory(self) -> None:
        """Past 80 % of the limit with garbage: says so in the log when it is past that without garbage too."""
        now = monotonic()
        if now >= self._look_again:
            self._look_again = now + COLLECT_EVERY
            if not self._vm.has_room(0, self._vm.memory_limit // 5):
                self._warn(now)

    def _warn(self, now: float) -> None:
        self._look_again = now + WARN_EVERY
        log.warning(
            "the Lua VM holds %.0f of %.0f MiB (setting memory_limit) after collecting its garbage; what handlers keep in globals"
            " and upvalues is never freed",
            self._vm.used() / 2**20,
            self._vm.memory_limit / 2**20,
        )

    def _make_room(self, slot: Slot) -> bool:
        """Whether a request can be started after the garbage was collected; otherwise it is answered."""
        vm, now = self._vm, monotonic()
        if now >= self._full_until:
            vm.collect()
            free = vm.memory_limit - PUSH_MARGIN - vm.used()
            # Half way to the limit: a VM in which much lives is not searched for garbage at each request.
            self._collect_above = max(vm.collect_above, vm.used() + free // 2)
            if free >= 0:
                self._full_since = None
                return True
            if self._full_since is None:
                self._full_since = now
                self._warn(now)
            self._full_until = now + COLLECT_EVERY
        self._failed += 1
        self._pool.fill(slot, slot.generation, Failure(500, HANDLER_FAILED, OUT_OF_MEMORY))
        return False

    def _check_health(self) -> None:
        """Raises what ends this greenlet: something was thrown into it, or what lives in the VM leaves no room for any request."""
        if self._meter.interrupted is not None:
            raise self._meter.interrupted
        if self._full_since is not None and monotonic() - self._full_since > self._pool.timeout + COLLECT_EVERY:
            raise OutOfMemoryError(f"{OUT_OF_MEMORY}, and no request has ended that held it")

    def _is_wanted(self) -> bool:
        """Whether somebody waits for what Lua computes just now. What closes a request that was given up is always wanted."""
        message = self._current
        if isinstance(message, Call):
            return message.slot.state in (WAITING, STREAMING)
        if isinstance(message, Resume) and isinstance(message.operation.owner, Slot):
            return message.operation.owner.state in (WAITING, STREAMING)
        return True

    def _settle(self, owner: Slot | Job, generation: int, answer: tuple[Any, Any, Any]) -> None:
        status, head, body = answer
        if owner.generation != generation:
            raise Bug(f"{owner!r} got the answer of generation {generation}")
        if status is not False and isinstance(owner, Slot):
            self._served += 1
            outgoing = owner.call.outgoing
            if outgoing is not None:
                outgoing.finish(failed=status != STREAMED)
                if status != STREAMED:
                    log_failure(owner.call.environ, f"a response ({status}) was thrown after the answer had begun", "")
            self._pool.fill(owner, generation, Reply(status, head, body))
            return
        failure = None
        if status is False:
            self._failed += 1
            failure = Failure(500, HANDLER_FAILED, head.decode(errors="replace"), body.decode(errors="replace"))
        if isinstance(owner, Job):
            del self._jobs[owner.index]
            owner.done(failure)
            return
        assert failure is not None
        call = owner.call
        if call.outgoing is not None:
            call.outgoing.finish(failed=True)
        if not self._pool.fill(owner, generation, failure):
            log_failure(call.environ, failure.message, failure.traceback)

    def _given_up(self, index: int) -> None:
        """A request or job was ended where it waited."""
        if index < 0:
            self._jobs.pop(index).done(_TOO_LONG)
            return
        slot = self._pool.slots[index]
        if slot.call.outgoing is not None:
            slot.call.outgoing.finish(failed=True)
        self._pool.fill(slot, slot.generation, _GIVEN_UP)

    def _give_up(self, message: Message, failure: Failure) -> None:
        """A verb was left by an exception: who waits for this message's request must not wait for ever."""
        owner: Slot | Job
        if isinstance(message, Call):
            owner = message.slot
        elif isinstance(message, Resume):
            owner = message.operation.owner
            if owner.generation != message.operation.generation:
                return
        elif isinstance(message, Work):
            owner = message.job
        else:
            return
        self._vm.recover(owner.index, owner.generation)
        if isinstance(owner, Job):
            if self._jobs.pop(owner.index, None) is not None:
                owner.done(failure)
        elif owner.state in (WAITING, EXPIRED, STREAMING, ABANDONED):
            self._failed += 1
            if owner.call is not None and owner.call.outgoing is not None:
                owner.call.outgoing.finish(failed=True)
            self._pool.fill(owner, owner.generation, failure)

    def publish(self) -> None:
        """Acts on what Lua has left in its outbox: starts operations, writes logs. Also called once before the start."""
        take = self._vm.take if self._vm.used() < self._warn_above else self._vm.take_when_full
        while (events := take()) is not None:
            for at in range(0, len(events), EVENT_WIDTH):
                event = events[at : at + EVENT_WIDTH]
                try:
                    if event[0] is not None:  # memory may have ended while it was written
                        self._act_on(*event)
                except Exception:
                    log.exception("the Lua greenlet could not act on %r", event)

    def _act_on(self, kind: int, index: int, generation: int, c: Any, d: Any, e: Any) -> None:
        owner: Slot | Job | None = self._pool.slots[index] if index >= 0 else self._jobs.get(index)
        if kind == EVENT_OPERATION:
            if owner is not None:
                self._start(owner, generation, c, d, e)
            return
        if kind == EVENT_CANCEL:
            self._operations.cancel(c)
            return
        held = owner is not None and owner.generation == generation and owner.call is not None
        environ = owner.call.environ if held and owner is not None else {}
        if kind == EVENT_DEFER:
            self.defer(c, environ)
        elif kind == EVENT_FAILURE:
            log_failure(environ, c.decode(errors="replace"), d.decode(errors="replace"))
        elif kind == EVENT_LOG:
            text = d.decode(errors="replace")
            if e:
                text += " " + e.decode(errors="replace")
            request_id = environ.get("greenlua.request_id")
            app_log.log(_LEVELS[c], "%s%s", text, f" [{request_id}]" if request_id else "")

    def _start(self, owner: Slot | Job, generation: int, number: int, name: bytes, shape: Any) -> None:
        """``shape`` is that of the arguments, or the number which is the only one."""
        scalars = self._vm.arguments(number, shape) if type(shape) is bytes else [shape]
        if scalars is None:
            return  # cancelled in the same batch
        operation = Operation(owner, generation, number, name, shape, scalars)
        try:
            self._operations.start(operation)
        except Exception as error:
            log.exception("an operation could not be started")
            self._operations.fail(operation, b"Error", f"{name.decode()} could not be started: {error}")

    # ------------------------------------------------------------ called by any greenlet

    def describe(self) -> str:
        """What Lua is doing, for who looks from outside. May be called in any thread."""
        message = self._current
        if message is None:
            return "Lua is at rest"
        stack = self._meter.stack.decode(errors="replace")
        where = f"; a moment ago it was at\n{stack}" if stack else ""
        return f"Lua works on {subject(message)}{where}"

    def statistics(self) -> dict[str, int]:
        """``served``, ``failed`` and ``skipped`` Calls, ``batches``, ``largest_batch``; operations ``under_way``."""
        return {
            "served": self._served,
            "failed": self._failed,
            "skipped": self._skipped,
            "batches": self._batches,
            "largest_batch": self._largest,
        } | self._operations.statistics()

    def inspect(self, timeout: float = 1.0) -> dict[str, int]:
        """The VM's own figures (`VM.statistics`), asked for through the channel; empty when no answer came in time."""
        return self._pass(self._channel.post, timeout)

    def _pass(self, post: Callable[[Inspect], None], timeout: float = 1.0) -> dict[str, int]:
        """The same through a lane."""
        answer: AsyncResult[dict[str, int]] = AsyncResult()
        post(Inspect(answer))
        return answer.wait(timeout) or {}
