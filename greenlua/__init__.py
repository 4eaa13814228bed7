"""HTTP APIs whose handlers are Lua, served from Python on one shared Lua VM."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["ConfigurationError", "GreenluaError", "LuaApp", "create_app"]

if TYPE_CHECKING:
    from greenlua.app import LuaApp, create_app
    from greenlua.errors import ConfigurationError, GreenluaError

_HOMES = {
    "LuaApp": "greenlua.app",
    "create_app": "greenlua.app",
    "ConfigurationError": "greenlua.errors",
    "GreenluaError": "greenlua.errors",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import greenlua` imports neither gevent nor lupa: the command line patches first.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'greenlua' has no attribute {name!r}")
