"""What crosses borders: between request greenlets and the Lua greenlet, and between Lua and Python.

Plain slotted values without behaviour. The numbers are shared with lua/engine.lua and lua/response.lua.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from gevent.event import AsyncResult

    from greenlua.slots import Slot

# Kinds of an answer's body (lua/response.lua).
EMPTY, JSON, TEXT, HTML, PROBLEM, FILE = range(6)

# Kinds of events in the engine's outbox (lua/engine.lua).
EVENT_OPERATION, EVENT_FAILURE, EVENT_LOG = 1, 2, 3
EVENT_WIDTH = 6


class Call(msgspec.Struct, gc=False):
    """A request on its way to its handler. It stays with its slot until Lua is done with it."""

    slot: Slot
    number: int
    """The handler's number in the VM, from 1."""
    environ: dict[str, Any]
    params: tuple[bytes | int | float, ...]
    """The values of the template's fields, in their order."""
    body: bytes


class Operation(msgspec.Struct, gc=False):
    """What a handler waits for: the name of something that Python performs, and its argument."""

    slot: Slot
    number: int
    name: str
    argument: Any


class Resume(msgspec.Struct, gc=False):
    """An operation has ended: ``value`` is its result, or the error's sentence when ``ok`` is false."""

    operation: Operation
    ok: bool
    value: bytes | int | float | bool | None


class Cancel(msgspec.Struct, gc=False):
    """Nobody waits for this request any more."""

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


class Failure(msgspec.Struct, gc=False):
    """Why there is no answer. ``detail`` may always be sent to the client; ``message`` and ``traceback`` only in development."""

    status: int
    detail: str
    message: str = ""
    traceback: str = ""
