"""Files as answers, for ``response.file`` and ``app:static``: found, opened so that nothing leads out of a folder, and sent as far
as the client wants them.

Rule: a file is never read but in blocks, on its way to the client. Opening and reading happen in the hub, as files of a local disk
do not make anybody wait long. Uses errors, security, conditional.
"""

from __future__ import annotations

import errno
import io
import mimetypes
import os
import stat
import time
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from typing import Any, NamedTuple

from greenlua.conditional import byte_range, precondition, seconds_of
from greenlua.errors import ClientError, OverloadError
from greenlua.security import Headers

BLOCK = 65536  # bytes read at a time
ASKED_KEY = "greenlua.asked"  # in the environ that a handler is shown: the one of the request, where that differs (cache_rule.py)
_SETTLED = 1.0  # seconds; a change sooner after another one may leave the time of the file as it is

# Through a folder one only passes; where the system can say so, that takes no right to list it.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe would else wait for its other end, and everybody with it.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC

_DETOURS = {"", ".", ".."}
STEPS_MAX = 256  # folders in a path with links or detours in it
_LINK_ERRORS = {errno.ELOOP, errno.EMLINK, errno.ENOTDIR}  # of opening a link so, in the systems there are

# What Python does not know everywhere. With nosniff, browsers refuse scripts and styles of another type.
_TYPES = {
    ".avif": "image/avif",
    ".js": "text/javascript",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}


class File(NamedTuple):
    """A regular file that is open. Whoever has it closes its content, or gives it to `deliver`.

    Attributes:
        content: its bytes.
        size: how many there are.
        modified: seconds since 1970.
        etag: strong, unless the file was changed just now.
        kind: its Content-Type, by the name under which it was asked for.
    """

    content: Section
    size: int
    modified: float
    etag: str
    kind: str


def open_file(folder: str, name: str) -> File:
    """Opens a file below a folder.

    Args:
        folder: without symbolic links in it; nothing outside it is ever opened.
        name: the path relative to it. Links are followed as far as they stay inside.

    Raises:
        ClientError: 404, when there is no such regular file.
        OverloadError: the system lets this process open no more.
    """
    missing = ClientError(404, "there is no such file")
    try:
        descriptor = _open(folder, name)
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise OverloadError("too many files are open") from None
        raise missing from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise missing
    # With the time of the inode's last change: files of a build may all have the same time of their own.
    etag = f'"{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}"'
    if time.time() - max(status.st_mtime, status.st_ctime) < _SETTLED:
        etag = f"W/{etag}"
    return File(Section(descriptor, status.st_size), status.st_size, status.st_mtime, etag, content_type(name))


def _open(folder: str, name: str) -> int:
    segments = name.split("/")
    if not _DETOURS & {*segments}:
        try:
            return _open_below(folder, segments)  # PERF: to resolve a path takes three times as long
        except OSError as error:
            if error.errno not in _LINK_ERRORS:
                raise
    real, inside = folder, os.path.join(folder, "")
    # One by one: a way out and in again would tell the names of the folders outside.
    steps = [segment for segment in segments if segment not in ("", ".")]
    if len(steps) > STEPS_MAX:
        raise FileNotFoundError(name)
    for segment in steps:
        real = os.path.realpath(os.path.join(real, segment), strict=True)
        if real != folder and not real.startswith(inside):
            raise FileNotFoundError(real)
    return _open_below(folder, real[len(inside) :].split("/"))


def _open_below(folder: str, segments: list[str]) -> int:
    """Step by step and without following links. Where the path was resolved, one that was put there since leads nowhere."""
    descriptor = os.open(folder, _FOLDER)
    for at, segment in enumerate(segments, 1):
        try:
            inner = os.open(segment, _FILE if at == len(segments) else _FOLDER, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def content_type(name: str) -> str:
    """The Content-Type that a file's name says; bytes where it says none, and for what is compressed."""
    kind = _TYPES.get(os.path.splitext(name)[1].lower())
    if kind is None:
        # With a folder in front it is no URL with a scheme.
        kind, encoding = mimetypes.guess_type(f"./{os.path.basename(name)}")
        if kind is None or encoding is not None:
            return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


# ---------------------------------------------------------------- on their way

_OF_A_BODY = frozenset(("content-type", "content-length", "content-encoding", "content-disposition", "accept-ranges"))


def deliver(
    environ: dict[str, Any], file: File, headers: Headers, status: int = 200
) -> tuple[int, Headers, Iterable[bytes]]:
    """A file as an answer: whole, a part of it, or the word that the client has it already.

    Args:
        environ: the request, whose own conditions and range hold also where its handler was not shown them;
            ``wsgi.file_wrapper`` is used when the server has one.
        file: closed here, or with the body.
        headers: of the answer so far; where they have one of the file's (Content-Type, ETag, Last-Modified...), theirs holds.
        status: that of the answer; any but 200 is sent whole.

    Raises:
        ClientError: 412 or 416; what the client wants only under a condition, or what there is not.
    """
    try:
        return _deliver(environ, file, headers, status)
    except BaseException:
        file.content.close()
        raise


def _deliver(
    environ: dict[str, Any], file: File, headers: Headers, status: int
) -> tuple[int, Headers, Iterable[bytes]]:
    given = {name.lower(): value for name, value in headers}
    own = [
        ("Content-Type", file.kind),
        ("Last-Modified", formatdate(file.modified, usegmt=True)),
        ("ETag", file.etag),
    ]
    headers = headers + [header for header in own if header[0].lower() not in given]
    start, end = 0, file.size
    if status == 200 and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        headers.append(("Accept-Ranges", "bytes"))
        etag = given.get("etag", file.etag)
        modified = seconds_of(given["last-modified"]) if "last-modified" in given else file.modified
        asked = environ.get(ASKED_KEY, environ)
        outcome = precondition(asked, etag, modified)
        if outcome == 412:
            raise ClientError(412, "this file is not the one that the request is about")
        if outcome == 304:
            file.content.close()
            return 304, [header for header in headers if header[0].lower() not in _OF_A_BODY], []
        part = byte_range(asked, file.size, etag, modified)
        if part is not None:
            status, (start, end) = 206, part
            headers.append(("Content-Range", f"bytes {start}-{end - 1}/{file.size}"))
    headers.append(("Content-Length", str(end - start)))
    if environ["REQUEST_METHOD"] == "HEAD":
        file.content.close()
        return status, headers, []
    file.content.narrow(start, end)
    wrapper = environ.get("wsgi.file_wrapper", Blocks)
    return status, headers, wrapper(file.content, BLOCK)


class Section(io.FileIO):
    """An open file of which only so many bytes are read, also when it grows meanwhile."""

    def __init__(self, descriptor: int, size: int) -> None:
        super().__init__(descriptor, "rb")
        self._end = size

    def narrow(self, start: int, end: int) -> None:
        """From now on these are the bytes: from ``start`` to ``end``."""
        self.seek(start)
        self._end = end

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._end - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left)) or b""


class Blocks:
    """A file as a WSGI iterable, for servers without ``wsgi.file_wrapper``."""

    def __init__(self, file: Section, size: int) -> None:
        self._file = file
        self._size = size

    def __iter__(self) -> Iterator[bytes]:
        while block := self._file.read(self._size):
            yield block

    def close(self) -> None:
        self._file.close()
