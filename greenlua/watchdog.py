"""Ends the process when its event loop stands still, so that a supervisor can start one that answers.

A thread of the operating system looks for the beat of a timer in the loop. When none came for `timeout` seconds while a greenlet
ran, some code blocks everybody: the thread logs where that is, and ends the process with status 70.

While code holds Python's lock (a regular expression that never ends) no thread of Python can run. For that case the thread winds
up an alarm in the kernel each time it looks; the alarm counts the processor time of the process, shows every stack without
Python's help (faulthandler) and ends the process by SIGVTALRM. Time in which the process was stopped or the machine
slept counts for neither. Nothing is shared with a forked child. Uses settings, gevent.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent import get_hub
from gevent.monkey import get_original

from greenlua.settings import Settings

log = logging.getLogger("greenlua")

STATUS = 70
"""Exit status: EX_SOFTWARE of sysexits.h."""

LOOKS = 20  # in the time that the loop may stand still
LOG_PATIENCE = 3.0  # seconds for the log; whoever blocks may hold the log's lock

# Under monkey-patching the usual ones make and stop greenlets.
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
_get_ident: Callable[[], int] = get_original("_thread", "get_ident")


class Watchdog:
    """Watches the event loop of the thread that makes it, from now until `stop`.

    Args:
        timeout: seconds that the loop may stand still.
        describe: says for the log what was going on; called by the watchdog's thread.
        dev: whether a debugger that stops the program is no reason to end it.
    """

    def __init__(self, timeout: float, describe: Callable[[], str], dev: bool = False) -> None:
        self._timeout = timeout
        self._describe = describe
        self._dev = dev
        hub = get_hub()
        self._main: Any = hub.parent
        self._ident = _get_ident()
        self._beats = 0
        self._alarm_set = False
        # ref=False: a loop that has nothing else to do may end.
        self._timer: Any = hub.loop.timer(timeout / LOOKS, timeout / LOOKS, ref=False)
        self._timer.start(self._beat)
        self._stopped = _allocate_lock()  # held until `stop`
        self._stopped.acquire()
        self._gone = _allocate_lock()  # held while the thread runs
        self._gone.acquire()
        _start_thread(self._watch, ())

    def stop(self) -> None:
        """Ends the thread, and waits for that."""
        self._timer.stop()
        self._timer.close()
        self._stopped.release()
        self._gone.acquire()

    def _beat(self) -> None:
        """In the hub."""
        self._beats += 1

    # ------------------------------------------------------------ in the thread

    def _watch(self) -> None:
        pause = max(0.01, self._timeout / LOOKS)
        beats, still = self._beats, 0.0
        try:
            self._alarm_set = _claim_alarm()
            while True:
                if self._alarm_set:
                    signal.setitimer(signal.ITIMER_VIRTUAL, _alarm_after(self._timeout))
                began = monotonic()
                if self._stopped.acquire(timeout=pause):
                    return
                if self._beats != beats or self._main.gr_frame is None:
                    # A beat; or it is the program itself that runs and not a greenlet of the loop: it may be a server that is
                    # not gevent's and waits for a request, a shell, a test. Such programs enter the loop only now and then.
                    beats, still = self._beats, 0.0
                    continue
                # No longer than this thread meant to sleep: after SIGCONT the pause was long, and the loop had no part in it.
                still += min(monotonic() - began, 2 * pause)
                if still >= self._timeout:
                    frame = sys._current_frames().get(self._ident)
                    if self._dev and _is_traced(frame):
                        still = 0.0
                    else:
                        self._end(frame)
        finally:
            if self._alarm_set:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            self._gone.release()

    def _end(self, frame: Any) -> None:
        written = _allocate_lock()
        written.acquire()
        message = self._message(frame)
        _start_thread(_write, (message, written))
        if not written.acquire(timeout=LOG_PATIENCE):
            os.write(2, message.encode(errors="replace"))
        os._exit(STATUS)

    def _message(self, frame: Any) -> str:
        try:
            doing = self._describe()
        except Exception as error:
            doing = f"what was going on cannot be said: {error!r}"
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "  (no stack)\n"
        return (
            f"the event loop stood still for {self._timeout:g} seconds; this process ends now, with status {STATUS}"
            f" (setting watchdog)\n{doing}\nthe code that did not let go, most recent call last:\n{stack}"
        )


def watch(settings: Settings, describe: Callable[[], str]) -> Watchdog | None:
    """A watchdog as the settings want it: not with ``watchdog = 0``, nor in development under a debugger."""
    if not settings.watchdog or (settings.dev and sys.gettrace() is not None):
        return None
    return Watchdog(settings.watchdog, describe, settings.dev)


def _write(message: str, written: Any) -> None:
    """In a thread of its own: it may never come back from here."""
    try:
        log.critical("%s", message.rstrip())
        for handler in (*log.handlers, *logging.getLogger().handlers):
            handler.flush()
        sys.stderr.flush()
    finally:
        written.release()


def _is_traced(frame: Any) -> bool:
    """Whether a debugger follows this stack."""
    while frame is not None:
        if frame.f_trace is not None:
            return True
        frame = frame.f_back
    return False


def _claim_alarm() -> bool:
    """Prepares the kernel's alarm; False when the program uses it for something else, or the system has none."""
    if not hasattr(signal, "SIGVTALRM"):
        return False
    if signal.getsignal(signal.SIGVTALRM) is not signal.SIG_DFL or signal.getitimer(signal.ITIMER_VIRTUAL)[0]:
        return False
    # chain: after the stacks comes what the signal does by default, which is to end the process.
    faulthandler.register(signal.SIGVTALRM, file=2, all_threads=True, chain=True)
    return True


def _alarm_after(timeout: float) -> float:
    """Processor seconds of the whole process that cannot pass between two looks unless this thread was kept from three of them,
    however many threads compute without Python's lock; and not less than ``timeout``."""
    return timeout * max(1.0, 3 * (os.cpu_count() or 1) / LOOKS)
