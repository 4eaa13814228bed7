"""The contract of a route: what a request must be before it may enter Lua, and in development what its answers must be.

One `Contract` for each route that asks for it. All parts of a request are one value, ``{"params", "query", "headers",
"body"}``, judged by one schema, so that a fault's JSON Pointer says by itself where it is. What Lua gets is that
value, written as JSON when it is touched; the bytes that the client sent are only in ``ctx.body``. Uses errors,
messages, answers, fields, explanations, filling,
schemas, texts, wire, routes.
"""

from __future__ import annotations

import logging
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from greenlua.answers import PROBLEM_TYPE, Answer
from greenlua.errors import ClientError
from greenlua.explanations import ERRORS_MAX, pointer_of, short
from greenlua.fields import environ_key, read_multipart, to_lua
from greenlua.filling import Definition
from greenlua.messages import Checked
from greenlua.routes import Route
from greenlua.schemas import Schema, Schemas
from greenlua.security import Headers
from greenlua.texts import Reader, leaves_of, reader_of
from greenlua.wire import (
    JSON_TYPE,
    MULTIPART,
    URLENCODED,
    header_text,
    media_type,
    read_fields,
    read_json,
    refuse_type,
)

log = logging.getLogger("greenlua")

INVALID = "the request is not valid"
OURS = frozenset({"400", "408", "411", "413", "415", "422", "500", "503", "504"})
"""Statuses of problem documents that greenlua makes by itself, on any route."""

ONCE = "must be given once"
SHOWN = 10  # faults of an answer that the log names
_OF_THE_CACHE = ("age", "cache-control", "etag", "vary")  # it adds them when these have been looked at

Faults = list[dict[str, str]]


class Contracts:
    """Makes the contracts of an app's routes.

    Args:
        schemas: the app's.
        dev: whether answers are looked at too.
    """

    def __init__(self, schemas: Schemas, dev: bool) -> None:
        self._schemas = schemas
        self._dev = dev

    def of(self, route: Route) -> Contract | None:
        """What a request of a route must be; None where the route does not say."""
        if not route.options.keys() & {"params", "query", "headers", "body"}:
            return None
        return Contract(self._schemas, route.options)

    def answers_of(self, route: Route) -> Answers | None:
        """What a route's answers must be; None where it does not say, and outside development."""
        return Answers(self._schemas, route) if self._dev and "responses" in route.options else None


class Contract:
    """What a request of one route must be.

    Args:
        schemas: the app's.
        options: the route's, as lua/contract.lua gives them.
    """

    def __init__(self, schemas: Schemas, options: dict[str, Any]) -> None:
        self._integers = schemas.integers
        parts: dict[str, Definition] = {
            name: schemas.strict(options[name]) for name in ("params", "query", "headers") if name in options
        }
        readers = {
            part: {name: reader_of(schemas, inner) for name, inner in strict["properties"].items()}
            for part, strict in parts.items()
        }
        self._params = readers.get("params")
        self._query = readers.get("query")
        self._headers = None
        if "headers" in parts:
            self._headers = [
                (name, environ_key(name), _is_list(schemas, parts["headers"]["properties"][name]), read)
                for name, read in readers["headers"].items()
            ]
        body = options.get("body")
        self._media: str | None = body["media"] if body else None
        self._form: dict[str, Reader] = {}
        self._files: dict[str, int] = {}
        self._read_other: Reader = _as_given
        if body is not None:
            parts["body"] = strict = schemas.strict(body["schema"])
            if self._media == "form":
                fields = strict["properties"]
                self._form = {
                    name: reader_of(schemas, inner) for name, inner in fields.items() if "x-file" not in inner
                }
                self._files = {name: inner["x-file"] for name, inner in fields.items() if "x-file" in inner}
                if type(strict.get("additionalProperties")) is dict:
                    self._read_other = reader_of(schemas, strict["additionalProperties"])
        for part in ("query", "headers"):
            if part in parts:
                parts[part].setdefault("additionalProperties", True)
        required = [part for part in parts if part != "body" or (body is not None and body["required"])]
        self._schema = Schema(schemas, {"type": "object", "properties": parts, "required": required})

    def check(self, environ: dict[str, Any], params: dict[str, Any], body: bytes) -> Checked:
        """What the request says, in the types of its contract and with defaults.

        Args:
            environ: the request.
            params: what Falcon made of the template's fields.
            body: whole.

        Raises:
            ClientError: 422 with all faults; 400 for what cannot be read at all; 415 for a body of another type.
        """
        value: dict[str, Any] = {}
        faults: Faults = []
        checked = Checked(params)
        query: dict[str, list[str]] = {}
        if self._params is not None:
            value["params"] = {name: _read_param(params[name], read) for name, read in self._params.items()}
        if self._query is not None:
            text = environ.get("QUERY_STRING")
            if text:
                query = read_fields(text.encode("latin-1"), "query string")
            value["query"] = _read_texts(query, self._query, "query", faults)
        if self._headers is not None:
            value["headers"] = self._read_headers(environ, faults)
        if body and self._media is not None:
            value["body"] = self._read_body(environ, body, checked, faults)
        schema = self._schema
        if not schema.fits(value):
            known = {fault["pointer"] for fault in faults}
            faults += [fault for fault in schema.explain(value) if fault["pointer"] not in known]
        if faults:
            raise ClientError(422, INVALID, faults[:ERRORS_MAX])
        if schema.fill is not None:
            schema.fill(value)
            if schema.fills_unique and not schema.fits(value):
                raise ClientError(422, INVALID, schema.explain(value))
        if self._params is not None:
            checked.params = {**params, **value["params"]}
        if self._query is not None:
            texts = query
            if query:
                texts = {name: given for name, given in query.items() if name not in self._query}
            checked.query = {"values": value["query"], "texts": texts}
        if self._headers is not None:
            checked.headers = value["headers"]
        if self._media == "json":
            checked.json = {"body": value["body"]} if "body" in value else {}
        elif self._media == "form":
            fields = value.get("body", {})
            checked.form = {"values": {name: fields[name] for name in fields if name not in self._files}, "texts": {}}
        return checked

    def _read_headers(self, environ: dict[str, Any], faults: Faults) -> dict[str, Any]:
        assert self._headers is not None
        values = {}
        for name, key, is_list, read in self._headers:
            given = environ.get(key)
            if given is None or (not given and not key.startswith("HTTP_")):
                continue
            text = header_text(given)
            if text is None:
                faults.append({"pointer": pointer_of(("headers", name)), "message": "is not valid UTF-8"})
            else:
                # An empty one is an empty list, as OpenAPI writes it.
                items = [item.strip() for item in text.split(",")] if is_list and text.strip() else []
                values[name] = read(items if is_list else [text])
        return values

    def _read_body(self, environ: dict[str, Any], body: bytes, checked: Checked, faults: Faults) -> Any:
        given = media_type(environ)
        if self._media == "json":
            if given != "application/json" and not JSON_TYPE.fullmatch(given):
                raise refuse_type(given, "application/json")
            return read_json(body, self._integers)
        if given == URLENCODED and not self._files:
            return self._read_form(read_fields(body, "form"), faults)
        if given != MULTIPART:
            raise refuse_type(given, MULTIPART if self._files else f"{URLENCODED} or {MULTIPART}")
        flat = read_multipart(environ, body)
        if flat[0] is False:
            raise ClientError(flat[1], flat[2].decode())
        return self._read_multipart(flat, checked, faults)

    def _read_form(self, texts: dict[str, list[str]], faults: Faults) -> dict[str, Any]:
        values = _read_texts(texts, self._form, "body", faults)
        for name, given in texts.items():
            if name not in self._form:
                values[name] = self._read_other(given)
        return values

    def _read_multipart(self, flat: tuple[Any, ...], checked: Checked, faults: Faults) -> dict[str, Any]:
        texts: dict[str, list[str]] = {}
        files: dict[str, bool] = {}
        kept: list[Any] = [True]
        for at in range(1, len(flat), 4):
            name, filename, content = flat[at].decode(errors="replace"), flat[at + 1], flat[at + 3]
            if filename is False:
                try:
                    texts.setdefault(name, []).append(content.decode())
                except UnicodeDecodeError:
                    raise ClientError(400, f"the form field {short(name)} is not valid UTF-8") from None
                continue
            most = self._files.get(name)
            if most is not None:
                kept += flat[at : at + 4]
                if name in files:
                    faults.append({"pointer": pointer_of(("body", name)), "message": ONCE})
                elif most and len(content) > most:
                    faults.append({"pointer": pointer_of(("body", name)), "message": f"must have at most {most} bytes"})
            files[name] = True
        checked.multipart = tuple(kept)
        return {**self._read_form(texts, faults), **files}


def _read_texts(texts: dict[str, list[str]], readers: dict[str, Reader], part: str, faults: Faults) -> dict[str, Any]:
    """The values that are declared and given."""
    values = {}
    for name, read in readers.items():
        given = texts.get(name)
        if given is not None:
            value = values[name] = read(given)
            if value is given:  # several, where one is wanted
                faults.append({"pointer": pointer_of((part, name)), "message": ONCE})
    return values


def _as_given(texts: list[str]) -> Any:
    return texts[0] if len(texts) == 1 else texts


def _read_param(value: Any, read: Reader) -> Any:
    if isinstance(value, (int, float)):
        return value
    return read([value if isinstance(value, str) else to_lua(value).decode()])  # type: ignore[union-attr]


def _is_list(schemas: Schemas, definition: Definition) -> bool:
    return any("items" in leaf for leaf in leaves_of(schemas, definition))


class Answers:
    """What the answers of one route must be. Only looks, and writes to the log."""

    def __init__(self, schemas: Schemas, route: Route) -> None:
        self._place = route.place
        self._responses: dict[str, Any] = route.options["responses"]
        self._schemas = {
            status: Schema(schemas, schemas.strict(declared["schema"]))
            for status, declared in self._responses.items()
            if "schema" in declared
        }
        self._headers = {
            status: [
                _DeclaredHeader(schemas, name, said)
                for name, said in sorted(declared.get("headers", {}).items())
                if "cache" not in route.options or name.lower() not in _OF_THE_CACHE
            ]
            for status, declared in self._responses.items()
        }

    def check(self, environ: dict[str, Any], answer: Answer) -> None:
        """Writes a warning where an answer is none that the route declares.

        Args:
            environ: the request.
            answer: as it is sent.
        """
        line, headers, body = answer
        status = line[:3]
        media = next((value for name, value in headers if name.lower() == "content-type"), "").partition(";")[0]
        wrong = self._faults(status, media.strip().lower(), body)
        for header in self._headers.get(status, ()):
            wrong += header.faults(headers)
        if wrong:
            log.warning(
                "%s [%s]: the answer %s is not what the route at %s declares: %s",
                environ.get("REQUEST_METHOD", "-"),
                environ.get("greenlua.request_id", "-"),
                status,
                self._place,
                "; ".join(wrong),
            )

    def _faults(self, status: str, media: str, body: Any) -> list[str]:
        declared = self._responses.get(status)
        if declared is None:
            if media == PROBLEM_TYPE and status in OURS:
                return []
            return [f"it has no {status} in its responses"]
        wanted = declared.get("media") or ("application/json" if "schema" in declared else "")
        if not wanted and body and status[0] in "45":
            wanted = PROBLEM_TYPE  # as the document says of errors without a word of their own
        wanted = wanted.partition(";")[0].strip().lower()
        if wanted and not fnmatchcase(media, wanted):
            return [f"its Content-Type is {media or 'not there'} and not {wanted}"]
        schema = self._schemas.get(status)
        if schema is None or type(body) is not list or not body or not JSON_TYPE.fullmatch(media):
            return []
        try:
            value = msgspec.json.decode(b"".join(body))
        except (msgspec.MsgspecError, ValueError) as error:
            return [f"it is not JSON: {error}"]
        if schema.fits(value):
            return []
        return [f"{fault['pointer'] or 'the body'} {fault['message']}" for fault in schema.explain(value)[:SHOWN]]


class _DeclaredHeader:
    """A header that an answer is to have."""

    def __init__(self, schemas: Schemas, name: str, said: dict[str, Any]) -> None:
        definition = schemas.strict(said["schema"])
        self._name = name
        self._required = bool(said.get("required"))
        self._is_list = _is_list(schemas, definition)
        self._read = reader_of(schemas, definition)
        self._schema = Schema(schemas, definition)

    def faults(self, headers: Headers) -> list[str]:
        """What is wrong with it in an answer."""
        given = [value for name, value in headers if name.lower() == self._name.lower()]
        if not given:
            return [f"its header {self._name} is not there"] if self._required else []
        text = ", ".join(given)
        value = self._read([item.strip() for item in text.split(",") if item.strip()] if self._is_list else [text])
        if self._schema.fits(value):
            return []
        return [f"its header {self._name} {fault['message']}" for fault in self._schema.explain(value)[:SHOWN]]
