"""What exists only in a process that serves: the VM, its greenlet, slots and channel, put together for one app.

Built after a fork and never before one; `LuaApp` builds it, and nobody else. Uses all of the above.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gevent.monkey import get_original

from greenlua.background import Background
from greenlua.channel import Channel
from greenlua.clients import NAMES, Clients, source
from greenlua.dispatcher import Dispatcher
from greenlua.fields import Fields, now
from greenlua.marshal import EITHER
from greenlua.operations import Exposed, Operations
from greenlua.resource import LuaResource, Responder
from greenlua.router import Router
from greenlua.routes import RouteTable
from greenlua.settings import Settings
from greenlua.slots import SlotPool
from greenlua.streams import register
from greenlua.vm import VM

# Of the operating system's thread: under monkey-patching the usual one counts greenlets.
get_thread_ident: Callable[[], int] = get_original("_thread", "get_ident")


class Serving:
    """An app that is loaded.

    Args:
        path: the Lua file.
        settings: the settings in force.
        router: gets the routes that the file declares.
        exposed: functions of Python, by their Lua names.
    """

    def __init__(self, path: Path, settings: Settings, router: Router, exposed: dict[str, Exposed]) -> None:
        self.thread = get_thread_ident()
        folder = path.parent.resolve()
        self.channel = Channel(settings.queue_capacity)
        self.pool = SlotPool(settings.slots, settings.request_timeout, self.channel.wake, self._abandoned)
        fields = Fields(self.pool.slots)
        host: dict[str, Callable[..., Any]] = {"fetch": fields.fetch, "fetch_header": fields.fetch_header, "now": now}
        self._functions = {f":{name}".encode(): function for name, function in exposed.items()}
        self.clients = Clients(settings, folder)
        self.vm = VM(settings.lua, host, settings.dev, settings.tasks, exposed, NAMES, self._open_client)
        rule = "warn" if settings.dev and settings.globals == "allow" else settings.globals
        self.table = RouteTable(self.vm.load(path, rule))
        self.operations = Operations(self.channel.post, self._functions, settings.operations, self.vm.integers)
        register(self.operations, self.pool, settings.request_timeout)
        self.responder = Responder(self.pool, self.channel, self.operations, folder, settings)
        router.set_lua_routes(self.table, lambda methods: LuaResource(methods, self.responder), settings.lua)
        self.dispatcher = Dispatcher(self.vm, self.channel, self.pool, self.operations, settings.batch_max)
        self.background = Background(
            self.vm.jobs(), self.channel.post, settings.request_timeout, self._claim, lambda: bool(settings.store_url)
        )
        self.dispatcher.defer = self.background.defer
        self.dispatcher.publish()  # what the app logged while it loaded
        self.dispatcher.start()

    def _open_client(self, name: str) -> tuple[bytes, dict[str, Callable[..., Any]]]:
        client = self.clients.open(name)
        for operation, function in client.operations.items():
            self._functions[f"{name}.{operation}".encode()] = Exposed(function, EITHER, logged=False)
        return source(name), client.callables

    def _claim(self, key: str, seconds: float) -> bool:
        store: Any = self.clients.open("store")
        return bool(store.add_for(key, seconds))

    def stop(self, timeout: float) -> None:
        """Called when no request is inside any more."""
        self.background.stop(timeout)
        self.dispatcher.stop()
        self.pool.stop()
        self.clients.close()

    def _abandoned(self, slot: Any) -> None:
        self.dispatcher.abandoned(slot)

    def statistics(self) -> dict[str, dict[str, int]]:
        return {
            "pool": self.pool.statistics(),
            "channel": self.channel.statistics(),
            "dispatcher": self.dispatcher.statistics(),
            "background": self.background.statistics(),
            "vm": self.dispatcher.inspect(),
        }
