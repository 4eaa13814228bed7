"""HTTP APIs whose handlers are Lua, served from Python on one shared Lua VM."""

__version__ = "0.1.0"
