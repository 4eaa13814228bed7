"""Folders of files (``app:static``): which address is which file, and in which coding the client gets it. Answers around the VM.

One Falcon resource for each folder; the router asks it for what no route takes. Uses codings, files, routes, resource; falcon.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import falcon

from greenlua.codings import is_compressible, preferences, vary
from greenlua.errors import ClientError, ConfigurationError, OverloadError
from greenlua.files import File, deliver, open_file
from greenlua.resource import STREAM_KEY
from greenlua.routes import StaticRule
from greenlua.security import Headers

INDEX = "index.html"
_ENDINGS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}  # of compressed files beside a file; the smallest first
# No dot files and no way up; a backslash and control characters are in no honest name.
_SEGMENT = re.compile(r"(?!\.)[^\\\x00-\x1f\x7f]+")
_QUERY = "!$&'()*+,;=:@/?%-._~[]|"
_METHODS = "GET, HEAD, OPTIONS"


class StaticFiles:
    """The files below one folder.

    Args:
        rule: as it was declared.
        app_folder: the app's folder, resolved.

    Raises:
        ConfigurationError: there is no such folder below the app's folder; names file and line.
    """

    def __init__(self, rule: StaticRule, app_folder: Path) -> None:
        self._prefix = rule.prefix
        self._indexed = rule.indexed
        self._headers: Headers = [(name, value) for name, value in rule.headers]
        self._cache: Headers = [("Cache-Control", rule.cache)] if rule.cache else []
        what = f"{rule.place}: app:static {rule.prefix or '/'}: the folder {rule.folder!r}"
        try:
            folder = (app_folder / rule.folder).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # RuntimeError: links that go round
            raise ConfigurationError(f"{what} does not exist in {app_folder}") from None
        if not folder.is_dir():
            raise ConfigurationError(f"{what} is no folder")
        if folder == app_folder:
            raise ConfigurationError(f"{what} is the app's own, with its Lua files; put the files into one below it")
        if not folder.is_relative_to(app_folder):
            raise ConfigurationError(f"{what} leads out of the app's folder {app_folder}")
        self._folder = str(folder)

    # ------------------------------------------------------------ called by Falcon

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        try:
            status, headers, body = self._answer(req.env, req.path[len(self._prefix) :])
        except ClientError as error:
            if error.status == 404:
                raise falcon.HTTPNotFound() from None
            raise falcon.HTTPError(error.status, description=str(error), headers=list(error.headers)) from None
        except OverloadError as error:
            raise falcon.HTTPServiceUnavailable(description=str(error), retry_after=error.retry_after) from None
        resp.status = status
        for name, value in headers:
            resp.append_header(name, value)
        if body != []:
            resp.stream = req.env[STREAM_KEY] = body

    on_head = on_get

    def on_options(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.status = falcon.HTTP_204
        resp.set_header("Allow", _METHODS)

    # ------------------------------------------------------------ which file

    def _answer(self, environ: dict[str, Any], path: str) -> tuple[int, Headers, Any]:
        """``path`` is what follows the prefix: nothing, or a slash and more. It is decoded already, and never again."""
        *folders, last = path.split("/")[1:] or [""]
        if not all(map(_SEGMENT.fullmatch, folders if last == "" else [*folders, last])):
            raise ClientError(404, "a path like this leads to no file")
        if last == "":
            if not self._indexed:
                raise ClientError(404, "folders are not shown")
            if path == "":
                return self._redirect(environ, "")
            last = INDEX
        name = "/".join([*folders, last])
        try:
            file = open_file(self._folder, name)
        except ClientError:
            if self._indexed and last != INDEX:
                return self._redirect(environ, name)
            raise
        file, headers = self._choose(environ, name, file)
        return deliver(environ, file, headers)

    def _redirect(self, environ: dict[str, Any], name: str) -> tuple[int, Headers, Any]:
        """From a folder that has an index to its address with a slash at the end; relative, so that it holds behind any proxy."""
        open_file(self._folder, f"{name}/{INDEX}" if name else INDEX).content.close()
        address = quote((name or self._prefix).rpartition("/")[2], safe="") + "/"
        if query := environ.get("QUERY_STRING"):
            address += "?" + quote(query.encode("latin-1"), safe=_QUERY)
        headers = [("Location", address), ("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "0")]
        return 302, self._headers + headers, []

    def _choose(self, environ: dict[str, Any], name: str, file: File) -> tuple[File, Headers]:
        """The file, or one beside it that holds the same compressed, and the headers that go with it."""
        headers = self._headers + self._cache
        if not is_compressible(file.kind):
            return file, headers
        headers = vary(headers)
        if "HTTP_RANGE" in environ:  # parts are of the file itself: nobody can put together those of two codings
            return file, headers
        for coding in preferences(environ.get("HTTP_ACCEPT_ENCODING"), tuple(_ENDINGS)):
            beside = name + _ENDINGS[coding]
            # PERF: mostly there is none, and `open_file` takes longer to say so.
            if not os.path.exists(os.path.join(self._folder, beside)):
                continue
            try:
                other = open_file(self._folder, beside)
            except ClientError:
                continue
            if int(other.modified) < int(file.modified):  # it was made from an earlier one
                other.content.close()
                continue
            file.content.close()
            etag = f'{other.etag[:-1]}-{coding}"'  # never that of the file itself
            kept = other._replace(kind=file.kind, modified=file.modified, etag=etag)
            return kept, [*headers, ("Content-Encoding", coding)]
        return file, headers
