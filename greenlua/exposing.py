"""Names under which Lua finds functions of Python. Uses errors."""

from __future__ import annotations

import re
from collections.abc import Iterable

from greenlua.errors import ConfigurationError

_LUA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_LUA_KEYWORDS = re.compile(
    "and|break|do|else|elseif|end|false|for|function|global|goto|if|in|local|nil|not|or|repeat|return|then|true|until|while"
)


def check_name(name: str, taken: Iterable[str]) -> None:
    """That a function can be exposed under a name beside those that are taken.

    Raises:
        ConfigurationError: it is no Lua name, or it or a part of it is taken.
    """
    if name == "<lambda>":
        raise ConfigurationError('a lambda has no name: give it one, as in app.expose("name", lambda: ...)')
    if not all(_LUA_NAME.fullmatch(part) and not _LUA_KEYWORDS.fullmatch(part) for part in name.split(".")):
        raise ConfigurationError(f"{name!r} is no Lua name: letters, digits and _, joined by dots, and no keyword")
    for other in taken:
        if other == name or other.startswith(f"{name}.") or name.startswith(f"{other}."):
            raise ConfigurationError(f"expose {name!r}: {other!r} is exposed already")
