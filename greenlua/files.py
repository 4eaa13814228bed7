"""Files of the app's folder as answers (``response.file``). Uses errors."""

from __future__ import annotations

import mimetypes
import os
import stat
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, BinaryIO

from greenlua.errors import ClientError

BLOCK = 65536  # bytes read at a time


class FileBody:
    """An open file as a WSGI iterable, for servers without ``wsgi.file_wrapper``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        while block := self._file.read(BLOCK):
            yield block

    def close(self) -> None:
        self._file.close()


def open_file(folder: Path, name: bytes, environ: dict[str, Any]) -> tuple[list[tuple[str, str]], Iterable[bytes]]:
    """Opens a file for an answer.

    Args:
        folder: the app's folder, resolved; nothing outside it is ever opened.
        name: the path as the handler gave it, relative to the folder.
        environ: the request; ``wsgi.file_wrapper`` is used when the server has one.

    Returns:
        headers (Content-Type, Content-Length, Last-Modified) and the body.

    Raises:
        ClientError: 404, when there is no such regular file in the folder.
    """
    missing = ClientError(404, "there is no such file")
    try:
        path = (folder / os.fsdecode(name)).resolve(strict=True)
        if not path.is_relative_to(folder):
            raise missing
        # O_NONBLOCK: opening a pipe would else wait for its other end, and everybody with it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError, RuntimeError):  # ValueError: NUL in the name; RuntimeError: links that go round
        raise missing from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise missing
    kind, encoding = mimetypes.guess_type(path.name)
    if kind is None or encoding is not None:
        kind = "application/octet-stream"
    elif kind.startswith("text/") or kind == "application/javascript":
        kind += "; charset=utf-8"
    headers = [
        ("Content-Type", kind),
        ("Content-Length", str(status.st_size)),
        ("Last-Modified", formatdate(status.st_mtime, usegmt=True)),
    ]
    if environ["REQUEST_METHOD"] == "HEAD":
        os.close(descriptor)
        return headers, []
    file = os.fdopen(descriptor, "rb")
    wrapper = environ.get("wsgi.file_wrapper")
    return headers, wrapper(file, BLOCK) if wrapper is not None else FileBody(file)
