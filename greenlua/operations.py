"""Operations: what a handler may wait for, performed outside the VM.

A Lua call such as ``sleep(0.1)`` or an exposed function yields an Operation. It is started here, and its end goes back through the
channel as a Resume. Functions run on greenlets of their own, which are reused. ``start``, ``cancel`` and ``stop`` are called by the
Lua greenlet and never switch. Uses gevent, marshal, messages, reports.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, NamedTuple

from gevent import GreenletExit, get_hub, getcurrent
from greenlet import greenlet

from greenlua.marshal import TEXT, MarshalError, decode, encode
from greenlua.messages import Operation, Resume
from greenlua.reports import log_exception

log = logging.getLogger("greenlua")

IDLE_MAX = 256  # greenlets kept for reuse; more may run at once


class Exposed(NamedTuple):
    """A Python function that Lua may call."""

    function: Callable[..., Any]
    strings: str = TEXT
    """How it gets strings; see `greenlua.marshal`."""
    blocking: bool = False
    """Whether it runs in gevent's thread pool."""
    logged: bool = True
    """Whether the traceback of what it raises is worth a line in the log: not for clients, whose errors are the peer's."""


Inner = Callable[[Operation], None]


class Operations:
    """The operations under way.

    Args:
        post: takes the Resume of each that ends; must not switch greenlets.
        functions: what Lua may perform, by name.
        most: how many are performed at once; the others wait for their turn.
        integers: see `greenlua.marshal.encode`.
        memory: bytes that the arguments and results of all of them may have together; 0: no limit. The same string in Lua, given
            to a thousand operations, is a thousand copies here.

    Attributes:
        inner: operations that are no function: called in the Lua greenlet with the Operation, and ended with `end`. They never
            switch greenlets, and set ``operation.undo``.
        unwanted: by number, what takes back a result that Lua may have cancelled while it was on its way.
    """

    def __init__(
        self,
        post: Callable[[Resume], None],
        functions: dict[bytes, Exposed],
        most: int = 1024,
        integers: int = 2**63,
        memory: int = 0,
    ) -> None:
        self._post = post
        self._functions = functions
        self._most = most
        self._integers = integers
        self._memory = memory or sys.maxsize
        self._held = 0  # bytes
        self._hub = get_hub()
        self._under_way: dict[int, Operation] = {}
        self._begun: list[tuple[Any, Operation]] = []  # greenlets that go on with an operation in the hub's next turn
        self._turn: deque[Operation] = deque()  # those that wait for a greenlet
        self._idle: list[Any] = []
        self._busy = 0
        self._stopped = False
        self.unwanted: dict[int, Callable[[], None]] = {}
        self.inner: dict[bytes, Inner] = {b"sleep": self._sleep}

    # ------------------------------------------------------------ called by the Lua greenlet

    def start(self, operation: Operation) -> None:
        """Begins an operation; its Resume comes later, also when there is no such operation."""
        self._under_way[operation.number] = operation
        if not self._take_room(operation, operation.scalars):
            self.fail(operation, *self._no_room("arguments", operation.scalars))
            return
        inner = self.inner.get(operation.name)
        if inner is not None:
            inner(operation)
        elif operation.name not in self._functions:
            self.fail(operation, b"Error", f"there is no operation {operation.shown}")
        elif self._busy >= self._most:
            self._turn.append(operation)
        else:
            self._busy += 1
            # PERF: one callback of the loop for all that a batch begins.
            if not self._begun:
                self._hub.loop.run_callback(self._begin)
            self._begun.append((self._idle.pop() if self._idle else greenlet(self._work, self._hub), operation))

    def _begin(self) -> None:
        """In the hub: each runs until it first waits."""
        begun, self._begun = self._begun, []
        for worker, operation in begun:
            worker.switch(operation)

    def cancel(self, number: int) -> None:
        """Forgets an operation; no Resume will come, or Lua will not look at it: those that have just ended are unknown here."""
        operation = self._under_way.pop(number, None)
        unwanted = self.unwanted.pop(number, None)
        if unwanted is not None:
            unwanted()
        if operation is not None:
            operation.cancelled = True
            self.release(operation)
            if operation.worker is not None:
                self._hub.loop.run_callback(_interrupt, operation)
            elif operation.undo is not None:
                operation.undo()
            else:
                operation.scalars = []  # it waits for its turn, and may do so for long

    def stop(self) -> None:
        """Cancels all, and ends the greenlets."""
        self._stopped = True
        for number in list(self._under_way):
            self.cancel(number)
        self._turn.clear()
        while self._idle:
            self._hub.loop.run_callback(self._idle.pop().throw, GreenletExit)

    # ------------------------------------------------------------ how they end

    def end(self, operation: Operation, shape: bytes = b"n", scalars: Sequence[Any] = ()) -> None:
        """With a result."""
        if not operation.cancelled:
            self.release(operation)
            if scalars and not self._take_room(operation, scalars):
                self.fail(operation, *self._no_room("result", scalars))
                return
            del self._under_way[operation.number]
            self._post(Resume(operation, True, shape, scalars))

    def fail(self, operation: Operation, kind: bytes, message: str) -> None:
        """With an error: its type and a sentence."""
        if not operation.cancelled:
            self.release(operation)
            del self._under_way[operation.number]
            self._post(Resume(operation, False, kind, (message.encode(errors="replace"),)))

    # ------------------------------------------------------------ what they hold

    def _take_room(self, operation: Operation, scalars: Sequence[Any]) -> bool:
        size = _size_of(scalars)
        if self._held + size > self._memory:
            return False
        self._held += size
        operation.size = size
        return True

    def release(self, operation: Operation) -> None:
        """Its arguments are not needed any more, or its result is in Lua. A second call does nothing."""
        self._held -= operation.size
        operation.size = 0

    def _no_room(self, what: str, scalars: Sequence[Any]) -> tuple[bytes, str]:
        return b"MemoryError", (
            f"its {what} of {_size_of(scalars)} bytes would be too much: operations under way hold {self._held} of"
            f" {self._memory} bytes (setting memory_limit)"
        )

    # ------------------------------------------------------------ sleep

    def _sleep(self, operation: Operation) -> None:
        # PERF: a timer of the loop, no greenlet. Also for 0 seconds: a timer lets sockets be polled in between.
        timer = self._hub.loop.timer(operation.scalars[0])
        operation.undo = timer.close
        timer.start(self._wake, operation, timer)

    def _wake(self, operation: Operation, timer: Any) -> None:
        timer.close()
        self.end(operation)

    # ------------------------------------------------------------ functions, on greenlets of their own

    def _work(self, operation: Operation) -> None:
        """The life of a worker greenlet: one operation after another."""
        me = getcurrent()
        wait = self._hub.switch
        while True:
            if not operation.cancelled:
                try:
                    self._perform(operation, me)
                except BaseException:  # raised into this greenlet when the function had returned
                    log.exception("%s was broken off late", operation.shown)
            if self._turn:
                operation = self._turn.popleft()
                continue
            self._busy -= 1
            if len(self._idle) >= IDLE_MAX:
                return
            self._idle.append(me)
            following = self._wait(wait, me)
            if following is None:
                return
            operation = following

    def _wait(self, wait: Callable[[], Operation], me: Any) -> Operation | None:
        """The next operation; None when there will be none: at the stop, or when somebody killed this greenlet."""
        while True:
            try:
                return wait()
            except GreenletExit:
                if self._stopped:
                    return None
                if me in self._idle:
                    self._idle.remove(me)
                    return None
                # Killed, but an operation is on its way here.
            except BaseException:  # a gevent.Timeout that a function left behind hits while nothing runs
                log.exception("a timer that an exposed function left behind")

    def _perform(self, operation: Operation, me: Any) -> None:
        exposed = self._functions[operation.name]
        operation.worker = me
        try:
            arguments = decode(operation.shape, operation.scalars, exposed.strings)
            if exposed.blocking:
                result, error = self._hub.threadpool.apply(_in_thread, (exposed.function, arguments))
                if error is not None:
                    raise error
            else:
                # A context of its own: a context variable that one request's function sets is no other's.
                result = Context().run(exposed.function, *arguments)
            shape, scalars = _encode(operation, result, self._integers)
        except GreenletExit:
            operation.worker = None
            self.fail(operation, b"GreenletExit", "the function ended its own greenlet")  # goes nowhere when cancelled
        except BaseException as error:
            operation.worker = None  # it is over, and a log handler that waits must not be broken off
            kind = "TypeError" if isinstance(error, MarshalError) else type(error).__name__
            cancelled = operation.cancelled
            self.fail(operation, kind.encode(), _message(error))
            if exposed.logged and not cancelled and not isinstance(error, MarshalError):
                log_exception(f"{operation.shown} failed [{_request_id(operation)}]")
        else:
            operation.worker = None
            self.end(operation, shape, scalars)

    def statistics(self) -> dict[str, int]:
        """``under_way``: how many; ``turn``: how many of them wait for their turn; ``held``: bytes of arguments and results."""
        return {"under_way": len(self._under_way), "turn": len(self._turn), "held": self._held}


def _interrupt(operation: Operation) -> None:
    """In the hub: ends a cancelled operation where it waits, unless it has ended by now."""
    if operation.worker is not None:
        operation.worker.throw(GreenletExit)


def _size_of(scalars: Sequence[Any]) -> int:
    """Bytes of the strings among them."""
    return sum([len(value) for value in scalars if type(value) is bytes])


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "an error that cannot be shown"


def _in_thread(function: Callable[..., Any], arguments: list[Any]) -> tuple[Any, BaseException | None]:
    """In a thread of gevent's pool, which takes a SystemExit for the end of the process."""
    try:
        return function(*arguments), None
    except BaseException as error:
        return None, error


def _encode(operation: Operation, result: Any, integers: int) -> tuple[bytes, Sequence[Any]]:
    try:
        return encode(result, integers)
    except MarshalError as error:
        raise MarshalError(f"{operation.shown} gave what cannot go to Lua: {str(error).removeprefix(': ')}") from None


def _request_id(operation: Operation) -> str:
    call = operation.owner.call
    return str(call.environ.get("greenlua.request_id", "-")) if call is not None else "-"
