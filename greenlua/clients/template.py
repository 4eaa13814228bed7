"""Pages from Jinja2 templates of the app's folder.

Rendering is an operation: it computes for a while, and gives way to others in between. A template is found only in the app's
folder, and may do what `template_sandbox` allows; its errors begin with its name and the line. Uses template_sandbox.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from greenlua.settings import Settings

NAME_MAX = 1024  # characters
SOURCE_MAX = 2**20  # bytes of a template's file
# A template that is given as text may come from anywhere, and compiling takes some 20 microseconds a character.
STRING_MAX = 65536  # characters
STRINGS_KEPT = 64  # kept compiled
STRING = "string"  # what such a template is called in messages


class Client:
    """The Python half of ``greenlua.template``."""

    EXTRA: ClassVar[str] = "template"

    def __init__(self, settings: Settings, folder: Path) -> None:
        from jinja2 import FunctionLoader

        from greenlua.clients.template_sandbox import BoundedEnvironment

        self._folder = folder
        self._environment = BoundedEnvironment(FunctionLoader(self._source))
        self._compiled = lru_cache(STRINGS_KEPT)(self._environment.from_string)
        self.callables: dict[str, Callable[..., Any]] = {}
        self.operations: dict[str, Callable[..., Any]] = {"render": self.render, "render_string": self.render_string}

    def close(self) -> None:
        """Forgets the compiled templates."""
        self._compiled.cache_clear()
        if self._environment.cache is not None:
            self._environment.cache.clear()

    # ------------------------------------------------------------ operations

    def render(self, name: str | bytes, values: dict[str, Any]) -> bytes:
        """The page that a template of the app's folder makes of the values.

        Raises:
            TemplateError: of Jinja2, one of its kinds; the message begins with template and line.
        """
        name = name if isinstance(name, str) else name.decode(errors="replace")
        return self._render(name, lambda: self._environment.get_template(name), values)

    def render_string(self, source: str | bytes, values: dict[str, Any]) -> bytes:
        """The same for a template that is given as text; it is called "string" in messages."""
        if isinstance(source, bytes):
            raise ValueError("the template is not valid UTF-8")
        if len(source) > STRING_MAX:
            raise ValueError(
                f"the template has {len(source)} characters; at most {STRING_MAX} are taken, more from a file"
            )
        return self._render(STRING, lambda: self._compiled(source), values)

    def _render(self, name: str, load: Callable[[], Any], values: dict[str, Any]) -> bytes:
        from greenlua.clients.template_budget import OUTPUT_MAX, TemplateLimitError, rendering

        check_values(values, "values")
        page = bytearray()
        with rendering():
            try:
                template = load()
                # Not template.generate: it would dress up the traceback in which the template's line is looked up.
                for piece in template.root_render_func(template.new_context(values)):
                    page += piece.encode()
                    if len(page) > OUTPUT_MAX:
                        raise TemplateLimitError(f"the page is larger than {OUTPUT_MAX >> 20} MiB")
            except Exception as error:
                raise located(error, name) from error
        return bytes(page)

    # ------------------------------------------------------------ templates of the app's folder

    def _source(self, name: str) -> tuple[str, str, Callable[[], bool]]:
        """What Jinja2 wants of a loader: the source, its file's name, and a function that tells whether it is still that."""
        from jinja2 import TemplateNotFound

        why = fault_of(name)
        if why:
            raise TemplateNotFound(name, f"{short(name)} cannot be a template: {why}")
        path = self._folder / name
        missing = TemplateNotFound(name, f"there is no template {short(name)} in the app's folder")
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: links that go round
            raise missing from None
        if not real.is_relative_to(self._folder):
            raise TemplateNotFound(name, f"the template {short(name)} leads out of the app's folder")
        try:
            # O_NONBLOCK: opening a pipe would else wait for its other end.
            descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            raise missing from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise TemplateNotFound(name, f"the template {short(name)} is no regular file")
        with os.fdopen(descriptor, "rb") as file:
            source = file.read(SOURCE_MAX + 1)
        if len(source) > SOURCE_MAX:
            raise TemplateNotFound(name, f"the template {short(name)} is larger than {SOURCE_MAX >> 20} MiB")
        try:
            text = source.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise TemplateNotFound(name, f"the template {short(name)} is not valid UTF-8") from None
        return text, str(real), lambda: _state_of(path) == (status.st_ino, status.st_size, status.st_mtime_ns)


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def fault_of(name: str) -> str | None:
    """Why a name can be no template, or None."""
    if len(name) > NAME_MAX or "\0" in name or "\\" in name:
        return "it is no path"
    if name.startswith("/"):
        return "paths are relative to the app's folder"
    for part in name.split("/"):
        if not part or part.startswith("."):
            return "no part of a path is empty or begins with a dot"
    return None


def short(name: str) -> str:
    """A name for messages."""
    return repr(name if len(name) <= 100 else name[:97] + "...")


def check_values(value: Any, place: str) -> None:
    """Refuses bytes that are no text, which a page could not show.

    Raises:
        ValueError: names the place, in Lua's counting.
    """
    if isinstance(value, bytes):
        raise ValueError(f"{place} is not valid UTF-8")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(item, (str, int)):
                check_values(item, f"{place}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            if not isinstance(item, (str, int)):
                check_values(item, f"{place}[{number}]")


def located(error: Exception, name: str) -> Exception:
    """An error of a template as an error of Jinja2 of the same kind whose message begins with template and line.

    ``name`` is that of the template that was asked for.
    """
    from jinja2 import TemplateError, TemplateNotFound, TemplateRuntimeError, TemplateSyntaxError
    from jinja2.sandbox import MAX_RANGE

    from greenlua.clients.template_budget import TemplateLimitError

    if isinstance(error, TemplateSyntaxError):
        result = TemplateSyntaxError(f"{error.name or STRING}:{error.lineno}: {error.message}", error.lineno)
        result.translated = True  # else its text would say the place once more
        return result
    place = place_of(error)
    if isinstance(error, TemplateNotFound):
        return TemplateNotFound(error.name, place + (error.message or ""))
    place = place or f"{name}: "
    if isinstance(error, RecursionError):
        return TemplateLimitError(
            f"{place}the template goes too deep: expressions in one another, or what calls itself"
        )
    if isinstance(error, OverflowError) and "MAX_RANGE" in str(error):
        return TemplateLimitError(f"{place}a range has at most {MAX_RANGE} numbers")
    if isinstance(error, TemplateError):
        return type(error)(place + (error.message or ""))
    return TemplateRuntimeError(f"{place}{type(error).__name__}: {error}")


def place_of(error: Exception) -> str:
    """``page.html:12: `` of the innermost template in which an error was raised, or nothing."""
    place, traceback = "", error.__traceback__
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            place = f"{template.name or STRING}:{template.get_corresponding_lineno(traceback.tb_lineno)}: "
        traceback = traceback.tb_next
    return place
