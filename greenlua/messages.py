"""What crosses borders: between request greenlets and the Lua greenlet, and between Lua and Python.

Plain slotted values without behaviour. The numbers are shared with lua/outbox.lua and lua/response.lua.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from gevent.event import AsyncResult

    from greenlua.slots import Slot
    from greenlua.streams import Incoming, Outgoing

# Kinds of an answer's body (lua/response.lua).
EMPTY, JSON, TEXT, HTML, PROBLEM, FILE, STREAM = range(7)
STREAMED = 0
"""In place of the status of an answer that has left in pieces."""
KEY = 1
"""In place of the status, where a cache asked for a request's key and the body is that (lua/routes.lua); NO_KEY is 2."""

# Kinds of events in the outbox (lua/outbox.lua).
EVENT_OPERATION, EVENT_FAILURE, EVENT_LOG, EVENT_CANCEL, EVENT_DEFER = range(1, 6)
EVENT_WIDTH = 6


class Checked(msgspec.Struct, gc=False):
    """What a request says, as the contract of its route has it; each part that is None was not asked for."""

    params: dict[str, Any]
    """The template's fields, those without a schema too."""
    query: dict[str, Any] | None = None
    """``values`` that have a schema, and ``texts`` of the others, in lists."""
    headers: dict[str, Any] | None = None
    json: dict[str, Any] | None = None
    """``body``, unless there is none."""
    form: dict[str, Any] | None = None
    """As ``query``."""
    multipart: tuple[Any, ...] | None = None
    """The files of a form, as fields.py gives them."""


class Call(msgspec.Struct, gc=False):
    """A request on its way to its handler. It stays with its slot until Lua is done with it."""

    slot: Slot
    number: int
    """The handler's number in the VM, from 1."""
    environ: dict[str, Any]
    params: tuple[bytes | int | float, ...]
    """The values of the template's fields, in their order."""
    body: bytes | None
    """None where the handler reads it in pieces."""
    incoming: Incoming | None = None
    """The body that the handler reads in pieces."""
    outgoing: Outgoing | None = None
    """The answer, once it leaves in pieces."""
    checked: Checked | None = None
    """Where the route has a contract."""
    seen: set[str] | None = None
    """Where somebody wants to know: what the handler has looked at of this one request, as keys of the environ (fields.py)."""


class Job(msgspec.Struct, eq=False):
    """Background work: a run of Lua without a client. It has the attributes by which the Lua greenlet knows a slot."""

    index: int
    """Negative, so that it is never a slot's."""
    number: int
    """The function's number in the VM, negative."""
    name: str
    environ: dict[str, Any]
    """Of the request that deferred it, else empty."""
    done: Callable[[Failure | None], None]
    """Told of its end; never switches greenlets."""
    generation: int = 1

    @property
    def call(self) -> Job:
        return self


class Operation(msgspec.Struct, eq=False):
    """What a handler waits for: the name of something that Python performs, and its arguments."""

    owner: Slot | Job
    generation: int
    """Of the owner, which may be somebody else's by the time it ends."""
    number: int
    name: bytes
    """``client.function``; ``:name`` of an exposed function, so that none of those can hide one of ours."""
    shape: bytes
    """Of the arguments; see lua/marshal.lua."""
    scalars: list[Any]
    cancelled: bool = False
    undo: Callable[[], None] | None = None
    """What takes it back."""
    worker: Any = None
    """The greenlet that performs it just now."""
    size: int = 0
    """Bytes of its arguments, then of its result, for which `Operations` has an account."""

    @property
    def shown(self) -> str:
        """Its name for people."""
        return self.name.decode(errors="replace").removeprefix(":")


class Resume(msgspec.Struct, gc=False):
    """An operation has ended, with a result or, when ``ok`` is false, with the type and message of an error."""

    operation: Operation
    ok: bool
    shape: bytes
    """Of the result, or the error's type."""
    scalars: Sequence[Any]
    """Of the result, or the error's message."""


class Work(msgspec.Struct, gc=False):
    """A job shall begin."""

    job: Job


class Cancel(msgspec.Struct, gc=False):
    """Nobody waits for this request or job any more."""

    index: int
    generation: int


class Inspect(msgspec.Struct, gc=False):
    """Somebody wants the VM's figures; only the Lua greenlet may ask the VM."""

    answer: AsyncResult[dict[str, int]]


class Reply(msgspec.Struct, gc=False):
    """A handler's answer: ``head`` is one of the kinds above, or a kind's digit and ``name NUL value NUL`` for each header."""

    status: int
    head: int | bytes
    body: bytes
    stream: Outgoing | None = None
    """The body, where it leaves in pieces."""


class Failure(msgspec.Struct, gc=False):
    """Why there is no answer. ``detail`` may always be sent to the client; ``message`` and ``traceback`` only in development."""

    status: int
    detail: str
    message: str = ""
    traceback: str = ""
