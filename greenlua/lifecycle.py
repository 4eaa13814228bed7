"""The life of an app in one process: loaded, started, reloaded, made anew when its VM failed, stopped.

At each moment at most one `Serving` is in force and gets the new requests; those before it finish what they have inside. Changing
from one to the next is one step in which no greenlet switches. Uses serving, router, clients, errors.
"""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import gevent
from gevent.lock import RLock

from greenlua.clients import Clients
from greenlua.compression import Compression
from greenlua.errors import ConfigurationError, GreenluaError, OverloadError, ServerError
from greenlua.inline import Page
from greenlua.operations import Exposed
from greenlua.purges import Purges
from greenlua.router import Router
from greenlua.serving import Serving, get_thread_ident
from greenlua.settings import Settings

log = logging.getLogger("greenlua")

THREADED = (
    "greenlua runs on one thread, and this server calls it from several: use `greenlua run`, `gunicorn -k gevent`,"
    " gevent.pywsgi.WSGIServer, or a server with a single thread"
)
# A VM that fails again within so many seconds is made anew after 1, 2, 4... seconds, up to the second number.
STEADY, DELAY_MOST = 10.0, 30.0
NOT_LOADED = "the app is not loaded"
OLD_GOES_ON = "the version that was loaded before goes on"


class Lifecycle:
    """The life of one app.

    Args:
        path: the Lua file.
        settings: the settings in force, for the whole life.
        router: is given the routes of what is in force.
        exposed: functions of Python, by their Lua names.
        standing: pages that do not come from the app, by path.
        compression: compresses answers.

    Attributes:
        serving: what is in force, or None.
        ready: the same, when a request may go there without a further look. PERF: the only thing that app.py looks at.
        loaded: what is in force, or has been loaded to be so.
        broken: in development, why the last reload failed.
        standing: those pages but for such in whose place the app that was last in force has a route.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        router: Router,
        exposed: dict[str, Exposed],
        standing: dict[str, Page],
        compression: Compression,
    ) -> None:
        self._path = path
        self._settings = settings
        self._router = router
        self._exposed = exposed
        self._standing = standing
        self._compression = compression
        self.forget()

    def forget(self) -> None:
        """Begins anew; also in a child after a fork: the parent's greenlets do not exist here."""
        self.serving: Serving | None = None
        self.ready: Serving | None = None
        self.loaded: Serving | None = None
        self.broken: str | None = None
        self.stopped = False
        self._stopping = False
        self._coming: Serving | None = None  # a reload is starting it
        self._retiring: dict[Serving, Any] = {}  # with the greenlets that finish them
        self._restart: Any = None  # the greenlet that makes a failed VM anew
        self._restart_at = self._since = self._delay = 0.0
        self._reloads = self._reload_failures = self._restarts = 0
        self._clients = Clients(self._settings, self._path.parent.resolve())
        self._purges = Purges(self._settings, self._clients)
        self.standing = self._standing
        self._lock = RLock()  # of who starts or reloads

    # ------------------------------------------------------------ from nothing to serving

    def load(self) -> Serving:
        """Builds the VM and loads the app, unless that was done in this process. Nothing of its background work runs yet.

        Raises:
            ConfigurationError: the app cannot be loaded; names file and line.
        """
        with self._lock:  # an app that computes while it loads lets others run
            if self.loaded is None:
                self.loaded = self._build()
            return self.loaded

    def start(self) -> Serving:
        """Loads the app, runs its ``on_start`` functions and starts its timers, unless that was done in this process.

        Raises:
            ConfigurationError: the app cannot be loaded, or an ``on_start`` function failed; names file and line.
            OverloadError: its VM failed and is about to be made anew.
        """
        with self._lock:  # who comes while on_start runs waits here
            if self.serving is None:
                if self._restart is not None:
                    after = max(1, math.ceil(self._restart_at - monotonic()))
                    raise OverloadError("the Lua VM has failed and is made anew", after)
                self._warn_of_dev()
                serving = self.load()
                try:
                    self._bring_up(serving)
                except BaseException:
                    self.loaded = None
                    raise
                self._put_in_force(serving)
                return serving
            return self.serving

    def _warn_of_dev(self) -> None:
        # `greenlua run` looks at the address itself; what gunicorn listens on is not ours to refuse.
        if self._settings.dev and "gunicorn" in sys.modules:
            log.warning(
                "the setting dev is on: clients see failures with their Lua traceback;"
                " turn it off where others than you can reach this server"
            )

    def _build(self) -> Serving:
        return Serving(
            self._path,
            self._settings,
            self._exposed,
            self._clients,
            self._purges,
            self._standing,
            self._compression,
            self._died,
        )

    def _bring_up(self, serving: Serving) -> None:
        """Runs what is to run at the start; ends it all if that fails."""
        try:
            serving.background.run_start()
            if serving.dead:
                raise ConfigurationError(f"{self._path.name}: the Lua greenlet ended while the app was started")
        except BaseException:
            serving.stop(0)
            raise

    def _put_in_force(self, serving: Serving) -> None:
        """From here on new requests go there. Its timers start when those of the one before have ended."""
        before = self.loaded
        # Nothing in these lines switches greenlets.
        self._router.use(serving.routes)
        self.serving = self.ready = self.loaded = serving
        self.standing = serving.lane.beside
        self._purges.add(serving.cache)
        self.broken = None
        self.stopped = False
        self._since = monotonic()
        if before is not None and before is not serving:
            self._retire(before)
            before.background.end_timers()
        if self.serving is serving and not serving.dead:
            serving.background.start_timers()
        if not self._ends():
            self._purges.start()

    def _ends(self) -> bool:
        return self._stopping or self.stopped

    # ------------------------------------------------------------ reload

    def reload(self) -> None:
        """Loads the app anew beside what is in force, and replaces that when the ``on_start`` functions have run. Logs the outcome.

        Requests inside finish where they are, for at most ``drain_timeout`` seconds. Waits for a reload that is under way.

        Raises:
            ConfigurationError: the app cannot be loaded, or an ``on_start`` function failed; all stays as it was.
            OverloadError: the app is stopped.
            ServerError: this is not the thread that the app runs on.
        """
        if self.loaded is not None and self.loaded.thread != get_thread_ident():
            raise ServerError(THREADED)
        # On a greenlet of its own: the caller may be a function that Lua called, and be ended with its request.
        error = gevent.spawn(self._reload).get()
        if error is not None:
            raise error

    def _reload(self) -> Exception | None:
        with self._lock:
            if self._ends():
                return OverloadError("the server is stopping")
            began = perf_counter()
            try:
                coming = self._coming = self._build()
                if not self._ends():
                    self._bring_up(coming)
            except Exception as error:
                return self._reload_failed(error)
            finally:
                self._coming = None
            self._end_restart()
            if self._ends():
                coming.stop(0)
                return OverloadError("the server is stopping")
            self._put_in_force(coming)
            self._reloads += 1
            log.info("reloaded %s in %.0f ms", self._path.name, (perf_counter() - began) * 1000)
            return None

    def _reload_failed(self, error: Exception) -> Exception:
        if self._ends():
            return OverloadError("the server is stopping")
        self._reload_failures += 1
        goes_on = OLD_GOES_ON if self.serving is not None else "there is no version that goes on"
        if isinstance(error, GreenluaError):
            # As text: the error itself has frames in which the VM stands that failed, and log handlers may keep it.
            log.error("%s was not reloaded: %s; %s", self._path.name, str(error), goes_on)
        else:
            log.exception("%s was not reloaded; %s", self._path.name, goes_on)
        if self._settings.dev and self.serving is not None:
            self.broken = str(error)
            self.ready = None
        return error

    def _retire(self, serving: Serving) -> None:
        timeout = self._settings.drain_timeout

        def finish() -> bool:
            try:
                drained = serving.finish(monotonic() + timeout)
                if not drained and not serving.dead and not self._stopping:
                    log.error("requests that a reload found inside were given up after %g seconds", timeout)
                return drained
            finally:
                del self._retiring[serving]

        self._retiring[serving] = gevent.spawn(finish)

    # ------------------------------------------------------------ a VM that failed

    def _died(self, serving: Serving) -> None:
        """In the hub. One that is only about to be in force, or no more, needs nobody in its place."""
        if serving is not self.serving or self._stopping:
            return
        self._router.use(None)
        self.serving = self.ready = self.loaded = None
        self._restarts += 1
        if monotonic() - self._since > STEADY:
            self._delay = 0.0
        self._restart_at = monotonic() + self._delay
        self._restart = gevent.spawn(self._make_anew, serving)

    def _make_anew(self, dead: Serving) -> None:
        dead.stop(0)
        while True:
            delay, self._delay = self._delay, min(DELAY_MOST, max(1.0, 2 * self._delay))
            self._restart_at = monotonic() + delay
            gevent.sleep(delay)
            with self._lock:
                if self.serving is not None:  # a reload was quicker
                    return
                try:
                    serving = self._coming = self._build()
                    self._bring_up(serving)
                except Exception as error:
                    log.error("%s could not be loaded after its VM had failed: %s", self._path.name, str(error))
                    continue
                finally:
                    self._coming = None
                self._restart = None
                self._put_in_force(serving)
                log.warning("a fresh Lua VM serves %s", self._path.name)
                return

    def _end_restart(self) -> None:
        restart, self._restart = self._restart, None
        if restart is not None:
            restart.kill()

    # ------------------------------------------------------------ the end

    def stop(self, timeout: float | None = None) -> bool:
        """Refuses new requests, waits for those inside, runs ``on_stop``, ends the Lua greenlet. A later `start` starts anew.

        Args:
            timeout: seconds to wait; the setting ``drain_timeout`` by default.

        Returns:
            Whether all requests inside were answered in time.
        """
        deadline = monotonic() + (self._settings.drain_timeout if timeout is None else timeout)
        self._stopping = True
        self._end_restart()
        if self._coming is not None:
            self._coming.stop(0)
        retiring = list(self._retiring.items())
        for serving, _ in retiring:
            serving.hurry(deadline)
        drained = True
        if self.loaded is not None:
            self.loaded.channel.close("the server is stopping")
            drained = self.loaded.finish(deadline)
        gevent.joinall([greenlet for _, greenlet in retiring])
        drained = drained and all(greenlet.value for _, greenlet in retiring)
        self._router.use(None)
        self.serving = self.ready = self.loaded = self.broken = None
        self._stopping, self.stopped = False, True
        self._purges.stop()
        self._clients.close()
        return drained

    @property
    def reasons(self) -> list[str]:
        """Why a new request would not be served at once; none when it would."""
        if self._ends():
            return ["the server is stopping" if self._stopping else "the server has stopped"]
        if self.serving is not None:
            return self.serving.reasons
        return [NOT_LOADED if self._restart is None else "the Lua VM has failed and is made anew"]

    def describe(self) -> str:
        """What goes on, for the log of a process that hangs. May be called in any thread."""
        serving = self.serving
        return serving.describe() if serving is not None else "no app is in force"

    def statistics(self) -> dict[str, dict[str, int]]:
        """Those of what is in force, if anything is, and ``app``: ``reloads``, ``reload_failures``, ``restarts`` of failed VMs."""
        own = {"reloads": self._reloads, "reload_failures": self._reload_failures, "restarts": self._restarts}
        return {"app": own} | (self.serving.statistics() if self.serving is not None else {})
