"""The Lua greenlet: the one greenlet that ever enters the VM.

It drains the channel in batches, runs each Call in the VM, fills slots with what comes out, and hands operations to those who
perform them. Nothing here waits except the drain. Uses channel, slots, vm, operations, messages.
"""

from __future__ import annotations

import logging
from typing import Any

import gevent
from gevent.event import AsyncResult

from greenlua.channel import Channel, Message
from greenlua.messages import (
    EVENT_FAILURE,
    EVENT_LOG,
    EVENT_OPERATION,
    EVENT_WIDTH,
    Call,
    Cancel,
    Failure,
    Inspect,
    Operation,
    Reply,
    Resume,
)
from greenlua.operations import Operations
from greenlua.slots import ABANDONED, EXPIRED, WAITING, Slot, SlotPool
from greenlua.vm import VM

log = logging.getLogger("greenlua")
app_log = logging.getLogger("greenlua.app")

_LEVELS = {b"debug": logging.DEBUG, b"info": logging.INFO, b"warning": logging.WARNING, b"error": logging.ERROR}
HANDLER_FAILED = "the handler failed"
_GIVEN_UP = Failure(503, "the request was given up")


class Dispatcher:
    """Drives one VM from one greenlet.

    Args:
        vm: a loaded VM; from `start` on nobody else may touch it.
        channel, pool: where Calls come from, and whose slots are filled.
        batch_max: the largest number of Calls in one batch.
    """

    def __init__(self, vm: VM, channel: Channel, pool: SlotPool, batch_max: int) -> None:
        self._vm = vm
        self._channel = channel
        self._pool = pool
        self._batch_max = batch_max
        self._operations = Operations(channel.post)
        self._greenlet: gevent.Greenlet | None = None
        self._served = self._failed = self._skipped = self._batches = self._largest = 0

    def start(self) -> None:
        """Starts the Lua greenlet."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Ends the Lua greenlet and every operation under way. Called when no request is inside any more."""
        self._operations.stop()
        if self._greenlet is not None:
            self._greenlet.kill()

    def abandoned(self, slot: Slot) -> None:
        """Called by the pool when a waiter has left early: the coroutine is closed in a later batch."""
        self._channel.post(Cancel(slot.index, slot.generation))

    # ------------------------------------------------------------ the Lua greenlet

    def _run(self) -> None:
        drain, recycle, batch_max = self._channel.drain, self._pool.recycle, self._batch_max
        while True:
            batch = drain(batch_max)
            recycle()
            self._batches += 1
            if len(batch) > self._largest:
                self._largest = len(batch)
            for message in batch:
                try:
                    self._handle(message)
                except Exception:
                    # A Lua failure is a value by now, so this is ours. One request is lost, not the Lua greenlet.
                    log.exception("the Lua greenlet could not handle a %s", type(message).__name__)
                    self._give_up(message)
            self.publish()

    def _handle(self, message: Message) -> None:
        if isinstance(message, Call):
            slot = message.slot
            if slot.state is not WAITING:  # its time ran out, or its client left, while it was queued
                self._skipped += 1
                self._pool.fill(slot, slot.generation, _GIVEN_UP)
                return
            slot.call = message
            answer = self._vm.start(slot.index, slot.generation, message.number, *message.params)
            if answer is not None:
                self._settle(slot, answer)
        elif isinstance(message, Resume):
            operation = message.operation
            answer = self._vm.resume(operation.number, message.ok, message.value)
            if answer is not None:
                self._settle(operation.slot, answer)
        elif isinstance(message, Cancel):
            number = self._vm.cancel(message.index, message.generation)
            if number is not None:  # it was parked; otherwise it is still queued, or has just ended
                self._operations.cancel(number)
                slot = self._pool.slots[message.index]
                self._pool.fill(slot, slot.generation, _GIVEN_UP)
        else:
            message.answer.set(self._vm.statistics())

    def _settle(self, slot: Slot, answer: tuple[Any, Any, Any]) -> None:
        status, head, body = answer
        if status is not False:
            self._served += 1
            self._pool.fill(slot, slot.generation, Reply(status, head, body))
            return
        self._failed += 1
        failure = Failure(500, HANDLER_FAILED, head.decode(errors="replace"), body.decode(errors="replace"))
        call = slot.call
        if not self._pool.fill(slot, slot.generation, failure):
            log_failure(call.environ, failure.message, failure.traceback)

    def _give_up(self, message: Message) -> None:
        if isinstance(message, Call):
            slot = message.slot
        elif isinstance(message, Resume):
            slot = message.operation.slot
        else:
            return
        if slot.state in (WAITING, EXPIRED, ABANDONED):
            self._failed += 1
            self._pool.fill(slot, slot.generation, Failure(500, "a bug in greenlua; the log has it"))

    def publish(self) -> None:
        """Acts on what Lua has left in its outbox: starts operations, writes logs. Also called once before the start."""
        take = self._vm.take
        while (events := take()) is not None:
            for at in range(0, len(events), EVENT_WIDTH):
                event = events[at : at + EVENT_WIDTH]
                try:
                    self._act_on(*event)
                except Exception:
                    log.exception("the Lua greenlet could not act on %r", event)

    def _act_on(self, kind: int, index: int, generation: int, c: Any, d: Any, e: Any) -> None:
        slot = self._pool.slots[index]
        if kind == EVENT_OPERATION:
            operation = Operation(slot, c, d.decode(), e)
            try:
                self._operations.start(operation)
            except Exception as error:
                log.exception("an operation could not be started")
                self._channel.post(Resume(operation, False, f"{operation.name} could not be started: {error}".encode()))
            return
        environ = slot.call.environ if slot.generation == generation and slot.call is not None else {}
        if kind == EVENT_FAILURE:
            log_failure(environ, c.decode(errors="replace"), d.decode(errors="replace"))
        elif kind == EVENT_LOG:
            text = d.decode(errors="replace")
            if e:
                text += " " + e.decode(errors="replace")
            request_id = environ.get("greenlua.request_id")
            app_log.log(_LEVELS[c], "%s%s", text, f" [{request_id}]" if request_id else "")

    # ------------------------------------------------------------ called by any greenlet

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
        answer: AsyncResult[dict[str, int]] = AsyncResult()
        self._channel.post(Inspect(answer))
        return answer.wait(timeout) or {}


# A path may hold %0A: written as it is, it would be a log line of the client's own.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def log_failure(environ: dict[str, Any], message: str, traceback: str) -> None:
    """Logs what failed in a handler, with the request it failed for."""
    log.error(
        "%s %s [%s]: %s%s",
        environ.get("REQUEST_METHOD", "-"),
        environ.get("PATH_INFO", "-").translate(_CONTROLS),
        environ.get("greenlua.request_id", "-"),
        message,
        "\n" + traceback if traceback else "",
    )
