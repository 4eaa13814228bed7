"""What Lua can call out of the box: one client a name, each on a well-kept library, opened when an app requires it.

A client NAME is two files: NAME.py has a class ``Client`` that performs operations on greenlets of their own, and NAME.lua is what
``require "greenlua.NAME"`` gives. NAME.d.lua describes it for editors. Uses settings, errors.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, resources
from pathlib import Path
from typing import Any, ClassVar, Protocol

from greenlua.errors import ConfigurationError
from greenlua.settings import Settings

NAMES = ("crypto", "http", "jwt", "redis", "sql", "store", "template")


class Client(Protocol):
    """The Python half of a client. Made once in a process, without any I/O."""

    EXTRA: ClassVar[str]
    """The extra of the package that brings its library, or "" where none is needed."""

    operations: dict[str, Callable[..., Any]]
    """What Lua may perform, by name. Each call runs on a greenlet of its own and may block where gevent has patched."""

    callables: dict[str, Callable[..., Any]]
    """What Lua may call directly: plain computing on bytes, numbers and booleans. Never switches greenlets."""

    def __init__(self, settings: Settings, folder: Path) -> None: ...

    def close(self) -> None:
        """Lets go of its connections. Called when nothing is under way any more."""


class Clients:
    """The clients of one app in one process; each is opened at its first use. They outlive the VMs that use them: what a store in
    memory holds and what connections there are survive a reload.

    Args:
        settings: those of the app.
        folder: the app's folder, resolved.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._open: dict[str, Client] = {}

    def open(self, name: str) -> Client:
        """The client of that name.

        Raises:
            ConfigurationError: its library is not installed, or its settings are wrong.
        """
        client = self._open.get(name)
        if client is None:
            module = import_module(f"greenlua.clients.{name}")
            extra = module.Client.EXTRA
            try:
                client = self._open[name] = module.Client(self._settings, self._folder)
            except ImportError as error:
                raise ConfigurationError(
                    f"greenlua.{name} needs a library that is not installed ({error}): pip install 'greenlua[{extra}]'"
                ) from None
        return client

    def close(self) -> None:
        """Closes all that were opened; a later use opens them anew."""
        while self._open:
            self._open.popitem()[1].close()


def source(name: str) -> bytes:
    """The Lua half of a client."""
    return resources.files("greenlua").joinpath("clients", f"{name}.lua").read_bytes()
