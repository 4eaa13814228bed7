"""What exists only in a process that serves: the VM, its greenlet, slots and channel, put together for one load of an app.

Built after a fork and never before one; `Lifecycle` builds it, and nobody else. A reload builds another one beside it.
Uses all of the above.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
from gevent.monkey import get_original

from greenlua.answers import headers_of
from greenlua.background import Background
from greenlua.cache import Cache
from greenlua.channel import Channel
from greenlua.clients import NAMES, Clients, source
from greenlua.compression import Compression
from greenlua.contract import Contracts
from greenlua.dispatcher import Dispatcher
from greenlua.documentation import pages
from greenlua.errors import ConfigurationError
from greenlua.fields import Fields, now
from greenlua.inline import Constant, Lane, Page
from greenlua.marshal import EITHER
from greenlua.memory import trim
from greenlua.messages import Failure
from greenlua.meter import Meter
from greenlua.openapi import document
from greenlua.operations import Exposed, Operations
from greenlua.purges import Purges
from greenlua.resource import LuaResource, PageResource, Responder
from greenlua.router import add_pages, compile_routes
from greenlua.routes import Constant as ConstantRule
from greenlua.routes import RouteTable, StaticRule
from greenlua.schemas import Schemas
from greenlua.security import Security
from greenlua.settings import Settings
from greenlua.slots import SlotPool
from greenlua.static import StaticFiles
from greenlua.streams import register
from greenlua.vm import VM

log = logging.getLogger("greenlua")

# Of the operating system's thread: under monkey-patching the usual one counts greenlets.
get_thread_ident: Callable[[], int] = get_original("_thread", "get_ident")

_DIED = Failure(500, "the Lua VM failed while this request was inside")
_STOPPED = Failure(503, "the server has stopped")


class Serving:
    """An app that is loaded.

    Args:
        path: the Lua file.
        settings: the settings in force.
        exposed: functions of Python, by their Lua names.
        clients: those of the process.
        purges: those of the process.
        standing: pages of the inline lane that do not come from the app, by path; a route at the same path stands in their place.
        compression: that of the process.
        on_death: called in the hub when the Lua greenlet has died.

    Attributes:
        lane: answers that never enter the VM.
        routes: what the router is to use while this one takes the requests.
        dead: whether the Lua greenlet has ended by itself.

    Raises:
        ConfigurationError: the app cannot be loaded; names file and line.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        exposed: dict[str, Exposed],
        clients: Clients,
        purges: Purges,
        standing: dict[str, Page],
        compression: Compression,
        on_death: Callable[[Serving], None],
    ) -> None:
        self.thread = get_thread_ident()
        self.dead = False
        self._stopped = False
        self._deadline = math.inf
        self._on_death = on_death
        folder = self._folder = path.parent.resolve()
        self.channel = Channel(settings.queue_capacity)
        self._no_place = Failure(503, f"{settings.queue_capacity} requests are waiting already")
        self.pool = SlotPool(settings.slots, settings.request_timeout, self.channel.wake, self._abandoned, self._refuse)
        fields = Fields(self.pool.slots)
        schemas = Schemas(settings.lua, settings.unknown_fields == "drop")
        host: dict[str, Callable[..., Any]] = {
            "fetch": fields.fetch,
            "fetch_header": fields.fetch_header,
            "now": now,
            "purge": purges.purge,
            **schemas.callables,
        }
        self._functions = {f":{name}".encode(): function for name, function in exposed.items()}
        self._clients = clients
        self.meter = Meter(settings.cpu_limit)
        self.vm = VM(
            settings.lua,
            host,
            settings.dev,
            settings.tasks,
            exposed,
            NAMES,
            self._open_client,
            self.meter,
            settings.memory_limit,
            settings.sandbox,
            settings.unknown_fields,
        )
        rule = "warn" if settings.dev and settings.globals == "allow" else settings.globals
        declared = self.vm.load(path, rule)
        facts = self.vm.facts
        self.table = RouteTable(
            declared,
            [ConstantRule(**constant) for constant in facts.get("constants", ())],
            [StaticRule(**static) for static in facts.get("static", ())],
        )
        self.pool.finishing = self.table.finishing
        self.operations = Operations(
            self.channel.post, self._functions, settings.operations, self.vm.integers, settings.memory_limit
        )
        register(self.operations, self.pool, settings.request_timeout)
        self.responder = Responder(self.pool, self.channel, self.operations, folder, settings)
        self._open_lane(settings, schemas, standing, compression)
        self.dispatcher = Dispatcher(self.vm, self.channel, self.pool, self.operations, settings.batch_max, self.meter)
        self.background = Background(
            self.vm.jobs(),
            self.channel.post_job,
            settings.request_timeout,
            self._claim,
            lambda: bool(settings.store_url),
        )
        self.dispatcher.defer = self.background.defer
        self.dispatcher.on_death = self._died
        self.dispatcher.publish()  # what the app logged while it loaded
        self.dispatcher.start()
        self._purges = purges

    def _open_lane(
        self, settings: Settings, schemas: Schemas, standing: dict[str, Page], compression: Compression
    ) -> None:
        """The routes, and what answers without Lua."""
        security = Security(settings.security_headers)
        lane = self.lane = Lane()
        self.cache = Cache(settings, lane.pages, security, compression=compression)
        cache = self.cache if settings.cache_memory else None
        contracts = Contracts(schemas, settings.dev)
        self.routes = compile_routes(
            self.table,
            lambda methods: LuaResource(methods, self.responder, contracts, cache),
            settings.lua,
            lambda rule: StaticFiles(rule, self._folder),
        )
        for constant in self.table.constants:
            headers, body = headers_of(constant.head.encode("latin-1")), constant.body.encode("latin-1")
            lane.pages[constant.path] = Constant(constant.status, headers, body, security, compression)
        self._lua = settings.lua
        if self.vm.facts.get("docs"):
            self._document(self.vm.facts["docs"], security, compression)
        mine = {*self.routes.fixed, *lane.pages}
        lane.beside = {path: page for path, page in standing.items() if path not in mine}
        lane.pages.update(lane.beside)
        add_pages(self.routes, {path: PageResource(page) for path, page in lane.pages.items()})

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of the app; see `document`."""
        return document(self.table, self.vm.facts, self._lua)

    def _document(self, docs: dict[str, Any], security: Security, compression: Compression) -> None:
        found = pages(docs, self.openapi(), security, compression)
        for path in found:
            place = self.table.place_of(path)
            if place is not None:
                raise ConfigurationError(
                    f"{place}: {path} is where docs of greenlua.app ({docs['place']}) puts a page of its own"
                )
        self.lane.pages.update(found)

    def _open_client(self, name: str) -> tuple[bytes, dict[str, Callable[..., Any]]]:
        client = self._clients.open(name)
        for operation, function in client.operations.items():
            self._functions[f"{name}.{operation}".encode()] = Exposed(function, EITHER, logged=False)
        return source(name), client.callables

    def _claim(self, key: str, seconds: float) -> bool:
        store: Any = self._clients.open("store")
        return bool(store.add_for(key, seconds))

    def _abandoned(self, slot: Any) -> None:
        self.dispatcher.abandoned(slot)

    def _refuse(self) -> None:
        """Answers those who have found no place in the queue in time; when Lua is dead, all of them have been."""
        for call in self.channel.overdue(monotonic()) if not self.dead else ():
            self.pool.fill(call.slot, call.slot.generation, self._no_place)

    # ------------------------------------------------------------ its end

    @property
    def busy(self) -> bool:
        """Whether a request is inside, or on its way in."""
        return bool(self.pool.in_use or self.pool.takers or self.responder.coming)

    @property
    def reasons(self) -> list[str]:
        """Why a new request would have to wait or be refused; none when it would not."""
        reasons = []
        if self.pool.in_use >= len(self.pool.slots):
            reasons.append(f"all {len(self.pool.slots)} slots are taken")
        if self.channel.is_full:
            reasons.append(f"{self.channel.capacity} requests are waiting already")
        return reasons

    def finish(self, deadline: float) -> bool:
        """Waits until nobody is inside, then runs ``on_stop`` and ends all. Called when no new request comes here any more.

        Args:
            deadline: of `time.monotonic`; who is still inside then is answered 503. `hurry` may make it earlier.

        Returns:
            Whether all requests were answered in time.
        """
        self.hurry(deadline)
        while self.busy and not self.dead and monotonic() < self._deadline:
            gevent.sleep(0.01)
        drained = not self.busy
        self.channel.close("the app was reloaded or stopped while this request was on its way")
        self.stop(max(0.0, self._deadline - monotonic()))
        return drained

    def hurry(self, deadline: float) -> None:
        """`finish` has no more time than that."""
        self._deadline = min(self._deadline, deadline)

    def stop(self, timeout: float) -> None:
        """Ends all, whoever is inside; ``on_stop`` runs if all that was to run at the start did. A second call does nothing.

        Args:
            timeout: seconds for background work.
        """
        if self._stopped:
            return
        self._stopped = True
        self._purges.remove(self.cache)
        self.background.stop(timeout)
        self.dispatcher.stop()
        self.background.fail(_STOPPED)  # what began too late to be ended above
        self.pool.stop()
        self.vm.close()
        trim()

    def _died(self) -> None:
        """In the hub: nobody drives Lua any more, so nobody may go on waiting for it."""
        log.critical("the Lua greenlet has ended; all requests inside are answered 500")
        self.dead = True
        self.channel.close("the Lua VM has failed and is made anew")
        self.operations.stop()
        self.background.fail(_DIED)
        self.dispatcher.fail_all(_DIED)
        self._on_death(self)

    def describe(self) -> str:
        """What Lua does and which requests are inside. May be called in any thread."""
        return f"{self.dispatcher.describe()}\n{self.pool.describe()}"

    def statistics(self) -> dict[str, dict[str, int]]:
        return {
            "pool": self.pool.statistics(),
            "channel": self.channel.statistics(),
            "dispatcher": self.dispatcher.statistics(),
            "background": self.background.statistics(),
            "cache": self.cache.statistics(),
            "vm": self.dispatcher.inspect(),
        }
