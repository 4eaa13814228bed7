"""The OpenAPI 3.1 document of an app: what its routes declare, and the error answers that the server gives by itself.

What a route declares stands in its options: ``params``, ``query`` and ``headers`` are JSON Schemas of an object, ``body`` has
``media``, ``schema`` and ``required``, ``responses`` an answer for each status. The same app gives the same document, byte for
byte, in each process: paths stand in the order of declaration, keys that come from Lua tables are sorted.
Uses errors, routes.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from greenlua.errors import REASONS
from greenlua.routes import Route, RouteTable

VERSION = "3.1.0"

# A field of a template: its name, type and the type's arguments, as Falcon's router reads them.
_FIELD = re.compile(r"\{([^}:]*)(?::([^}(]*)(?:\(([^}]*)\))?)?\}")

# LuaJIT's integers are floats; those of the others are what int64 says.
INT53 = {"minimum": -(2**53), "maximum": 2**53}

_REF = "#/components/{}/{}"
_WITH_BODY = ("POST", "PUT", "PATCH")
_FILES = "multipart/form-data"
_MEDIA = {"json": ("application/json",), "form": ("application/x-www-form-urlencoded", _FILES), "files": (_FILES,)}
# OpenAPI ignores header parameters of these names: they are said by bodies, answers and security schemes.
_UNSAID = ("accept", "content-type", "authorization")

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "An error, as RFC 9457 has it.",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string", "description": "what the status means"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "what is wrong, for people"},
        "request_id": {"type": "string", "description": "names the request in the server's log"},
    },
    "required": ["type", "title", "status"],  # a kept one names no request
}
_ERRORS: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "description": "Each fault of the request.",
    "items": {
        "type": "object",
        "properties": {
            "pointer": {"type": "string", "description": "where it is, such as `/body/title` or `/query/page`"},
            "message": {"type": "string"},
        },
        "required": ["pointer", "message"],
    },
}
_FAULTS = {
    400: "The request cannot be read.",
    401: "The credentials are missing or wrong.",
    404: "Nothing is found at this address.",
    413: "The body is larger than this server takes.",
    415: "The body is of another media type.",
    422: "The request is not as it is described here; `errors` names each fault.",
    500: "The handler failed.",
    503: "There is no room for this request now; `Retry-After` says when to try again.",
    504: "There was no answer in time.",
}


def document(table: RouteTable, facts: dict[str, Any], lua: str = "5.4") -> dict[str, Any]:
    """The OpenAPI document of an app.

    Args:
        table: its routes; those with the option ``hidden`` are left out.
        facts: what it says of itself (`VM.facts`): ``title``, ``version``, ``description``, ``servers``, ``schemas``,
            ``security_schemes``.
        lua: the setting; it says how large an integer of a path may be.

    Returns:
        What can be written as JSON. Without ``servers`` among the facts it has none either: the API is where the document is.
    """
    return _Writer(table, facts, lua).document()


class _Writer:
    def __init__(self, table: RouteTable, facts: dict[str, Any], lua: str) -> None:
        self._table = table
        self._facts = facts
        self._integers = INT53 if lua == "luajit" else {}
        self._schemas: dict[str, Any] = {
            name: self._schema(said) for name, said in sorted((facts.get("schemas") or {}).items())
        }
        self._problem = _free("Problem", self._schemas)
        self._invalid = _free("InvalidRequest", self._schemas)
        self._used: set[int] = set()  # errors that refer to a component
        self._named: set[str] = set()  # of the schemas of errors, those that somebody refers to
        self._shown = [
            (template, method, route)
            for template, methods in table.by_template.items()
            for method, route in methods.items()
            if method in route.methods and not route.options.get("hidden")  # HEAD follows GET without a word
        ]
        self._ids = self._operation_ids()

    def document(self) -> dict[str, Any]:
        facts = self._facts
        info = {"title": facts.get("title", "greenlua"), "version": facts.get("version", "0.0.0")}
        if "description" in facts:
            info["description"] = facts["description"]
        whole: dict[str, Any] = {"openapi": VERSION, "info": info}
        if facts.get("servers"):
            whole["servers"] = [{"url": address} for address in facts["servers"]]
        paths: dict[str, Any] = {}
        for template, method, route in self._shown:
            operation = self._operation(template, method, route)
            paths.setdefault(_FIELD.sub(r"{\1}", template), {})[method.lower()] = operation
        whole["paths"] = paths
        components = self._components()
        if components:
            whole["components"] = components
        tags = dict.fromkeys(tag for _, _, route in self._shown for tag in route.options.get("tags", ()))
        if tags:
            whole["tags"] = [{"name": tag} for tag in tags]
        return whole

    def _operation(self, template: str, method: str, route: Route) -> dict[str, Any]:
        options = route.options
        operation: dict[str, Any] = {"operationId": self._ids[template, method]}
        for name in ("tags", "summary", "description"):
            if options.get(name):
                operation[name] = options[name]
        if options.get("deprecated"):
            operation["deprecated"] = True
        parameters = self._parameters(template, options)
        if parameters:
            operation["parameters"] = parameters
        body = options.get("body")
        if body is not None:
            content = {
                "schema": self._schema(_with_texts(body["schema"]) if body["media"] == "form" else body["schema"])
            }
            media = "files" if body["media"] == "form" and _has_files(body["schema"]) else body["media"]
            operation["requestBody"] = {
                "required": body.get("required", True),
                "content": dict.fromkeys(_MEDIA[media], content),
            }
        operation["responses"] = self._responses(template, method, options)
        if options.get("security") is not None:
            operation["security"] = _sorted(options["security"])
        return operation

    # ------------------------------------------------------------ parts of an operation

    def _parameters(self, template: str, options: dict[str, Any]) -> list[dict[str, Any]]:
        declared = (options.get("params") or {}).get("properties") or {}
        found = [
            self._parameter(
                name, "path", _merged(_field_schema(kind, arguments, self._integers), declared.get(name)), True
            )
            for name, kind, arguments in _FIELD.findall(template)
        ]
        for option, place in (("query", "query"), ("headers", "header")):
            schema = options.get(option) or {}
            required = schema.get("required") or ()
            for name, said in sorted((schema.get("properties") or {}).items()):
                shown = name.replace("_", "-") if place == "header" else name
                if place == "header" and shown.lower() in _UNSAID:
                    continue
                found.append(self._parameter(shown, place, said, name in required))
        return found

    def _parameter(self, name: str, place: str, schema: dict[str, Any], required: bool) -> dict[str, Any]:
        schema = self._schema(_as_text(schema))
        parameter: dict[str, Any] = {"name": name, "in": place}
        if required:
            parameter["required"] = True
        for said in ("description", "deprecated"):
            if said in schema and "$ref" not in schema:
                parameter[said] = schema.pop(said)
        return parameter | {"schema": schema}

    def _responses(self, template: str, method: str, options: dict[str, Any]) -> dict[str, Any]:
        responses = {}
        for status, said in (options.get("responses") or {}).items():
            responses[status] = response = self._response(status, said)
            if status[0] in "45" and "content" not in response:
                response["content"] = self._problem_document(status)  # what response.error gives
        if not any(status[0] in "23" for status in responses):
            responses["200"] = {"description": REASONS[200]}
        faults = [400, 500, 503, 504]
        if options.get("security"):
            faults.append(401)
        if "{" in template:
            faults.append(404)
        if method in _WITH_BODY or options.get("body") is not None:
            faults.append(413)
        if options.get("body") is not None:
            faults.append(415)
        if any(options.get(name) is not None for name in ("params", "query", "headers", "body")):
            faults.append(422)
        for fault in faults:
            if str(fault) not in responses:
                self._used.add(fault)
                responses[str(fault)] = {"$ref": _REF.format("responses", _title(fault))}
        return dict(sorted(responses.items()))

    def _operation_ids(self) -> dict[tuple[str, str], str]:
        """By template and method; what routes declare is never given to another one."""
        taken = {route.options["operation_id"] for _, _, route in self._shown if "operation_id" in route.options}
        ids: dict[tuple[str, str], str] = {}
        for template, method, route in self._shown:
            name = route.options.get("operation_id") or _free(_operation_id(template, method), taken)
            taken.add(name)
            ids[template, method] = name
        return ids

    def _response(self, status: str, said: dict[str, Any]) -> dict[str, Any]:
        reason = REASONS.get(int(status), "An answer") if status.isdigit() else "An answer"
        response: dict[str, Any] = {"description": said.get("description") or reason}
        if said.get("headers"):
            response["headers"] = {
                name: _sorted(header | {"schema": self._schema(header["schema"])})
                for name, header in sorted(said["headers"].items())
            }
        content = {"schema": self._schema(said["schema"])} if "schema" in said else {}
        if "example" in said:
            content["example"] = _sorted(said["example"])
        if content or said.get("media"):
            response["content"] = {said.get("media") or "application/json": content}
        return response

    def _schema(self, definition: dict[str, Any]) -> dict[str, Any]:
        """As it is published: integers are those that this Lua has."""
        schema = {word: _sorted(value) for word, value in sorted(definition.items())}
        kinds = schema.get("type", ())
        if ("integer" in kinds if type(kinds) is list else kinds == "integer") and not schema.keys() & {
            "const",
            "enum",
        }:
            schema = {"format": "int64"} | self._integers | schema
        if "properties" in schema:
            schema["properties"] = {
                name: self._schema(inner) for name, inner in sorted(definition["properties"].items())
            }
        if "anyOf" in schema:
            schema["anyOf"] = [self._schema(inner) for inner in definition["anyOf"]]
        for word in ("items", "additionalProperties"):
            if type(schema.get(word)) is dict:
                schema[word] = self._schema(definition[word])
        return dict(sorted(schema.items()))

    # ------------------------------------------------------------ components

    def _components(self) -> dict[str, Any]:
        responses = {_title(fault): self._fault(fault) for fault in sorted(self._used)}
        schemas = self._schemas | {name: schema for name, schema in self._problems().items() if name in self._named}
        schemes = _sorted(self._facts.get("security_schemes") or {})
        parts = {"schemas": schemas, "responses": responses, "securitySchemes": schemes}
        return {name: part for name, part in parts.items() if part}

    def _problems(self) -> dict[str, Any]:
        """The schemas of errors."""
        invalid = {
            "allOf": [{"$ref": _REF.format("schemas", self._problem)}],
            "type": "object",
            "properties": {"errors": _ERRORS},
            "required": ["errors"],
        }
        return {self._problem: _PROBLEM, self._invalid: invalid}

    def _fault(self, status: int) -> dict[str, Any]:
        """An error that the server gives by itself."""
        fault: dict[str, Any] = {"description": _FAULTS[status]}
        if status == 503:
            fault["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 0}}}
        return fault | {"content": self._problem_document(str(status))}

    def _problem_document(self, status: str) -> dict[str, Any]:
        """The content of an error."""
        name = self._invalid if status == "422" else self._problem
        self._named |= {name, self._problem}
        content: dict[str, Any] = {"schema": {"$ref": _REF.format("schemas", name)}}
        if status.isdigit():
            title = REASONS.get(int(status), "Error")
            example = {
                "type": "about:blank",
                "title": title,
                "status": int(status),
                "request_id": "7c41a6e0d3b24f58-1f",
            }
            if status == "422":
                example["errors"] = [{"pointer": "/body", "message": "is not as it should be"}]
            content["example"] = example
        return {"application/problem+json": content}


# ---------------------------------------------------------------- small parts


def _field_schema(kind: str, arguments: str, integers: dict[str, int]) -> dict[str, Any]:
    """What the paths that a field of a template matches have at its place. Falcon has checked type and arguments."""
    given = {name: value for name, value in _arguments(kind, arguments).items() if value is not None}
    bounds = {word: given[name] for name, word in (("min", "minimum"), ("max", "maximum")) if name in given}
    if kind == "int":
        if "num_digits" in given:
            return {"type": "string", "pattern": f"^[0-9]{{{given['num_digits']}}}$"}  # 007 is no number in JSON
        return {"type": "integer", "format": "int64"} | integers | bounds
    if kind == "float":
        return {"type": "number"} | bounds
    if kind == "uuid":
        return {"type": "string", "format": "uuid"}
    if kind == "dt":
        if "format_string" in given:
            return {"type": "string", "description": f"a time in the form {given['format_string']}"}
        return {"type": "string", "format": "date-time", "description": "a time without fractions of a second"}
    if kind == "path":
        return {"type": "string", "description": "the rest of the path, slashes included"}
    return {"type": "string", "minLength": 1}


_POSITIONAL = {"int": ("num_digits", "min", "max"), "float": ("min", "max", "finite"), "dt": ("format_string",)}


def _arguments(kind: str, arguments: str) -> dict[str, Any]:
    """``min=1, max=9`` by name; Falcon takes what Python would take as the arguments of a call."""
    call = ast.parse(f"f({arguments})", mode="eval").body
    assert isinstance(call, ast.Call)
    values = [ast.literal_eval(argument) for argument in call.args]
    given = dict(zip(_POSITIONAL.get(kind, ()), values, strict=False))
    return given | {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg is not None}


def _merged(field: dict[str, Any], declared: dict[str, Any] | None) -> dict[str, Any]:
    """What the template says of a field under what the route says of it, which wins."""
    if declared is None:
        return field
    if declared.get("type") != field["type"]:
        return declared  # a reference, or another view of the same text: the template's keywords would not fit
    return field | declared


def _as_text(schema: dict[str, Any]) -> dict[str, Any]:
    """What is sent as text is at least text."""
    return schema if schema.keys() & {"$ref", "anyOf", "const", "enum", "type"} else {"type": "string"} | schema


def _with_texts(form: dict[str, Any]) -> dict[str, Any]:
    return form | {"properties": {name: _as_text(field) for name, field in form.get("properties", {}).items()}}


def _has_files(schema: dict[str, Any]) -> bool:
    fields = (schema.get("properties") or {}).values()
    return any("binary" in (field.get("format"), field.get("items", {}).get("format")) for field in fields)


def _operation_id(template: str, method: str) -> str:
    """``get_todos_by_id`` for GET /todos/{id:int}."""
    words = _FIELD.sub(r"_by_\1_", template)
    name = re.sub(r"[^A-Za-z0-9]+", "_", words).strip("_")
    return f"{method.lower()}_{name or 'root'}"


def _title(status: int) -> str:
    """``NotFound``: the name of a response among the components."""
    return re.sub(r"[^A-Za-z]", "", REASONS[status].title())


def _free(name: str, taken: Any) -> str:
    """``name``, or the first of name_2, name_3... that is not taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _sorted(value: Any) -> Any:
    """A copy whose keys are sorted at every depth: Lua's tables have no order, and two processes would differ."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value
