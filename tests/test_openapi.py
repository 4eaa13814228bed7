"""The OpenAPI document: what it says of routes, that it is valid whatever the routes are, and that the server does what it says."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from falcon import testing
from hypothesis import assume, given
from hypothesis import settings as rules
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from greenlua import create_app
from greenlua.errors import ConfigurationError
from greenlua.openapi import document
from greenlua.router import compile_routes
from greenlua.routes import Route, RouteTable
from greenlua.testing import client

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(ROOT.glob("examples/*.lua"))
ALWAYS = {"400", "500", "503", "504"}

Write = Callable[..., Path]


def table(*routes: tuple[str, str, dict[str, Any]]) -> RouteTable:
    """(methods, template, options) as routes that stand in lines 1, 2 and so on."""
    return RouteTable(
        [
            Route(number, tuple(methods.split()), template, f"app.lua:{number}", f"app.lua:{number}", options)
            for number, (methods, template, options) in enumerate(routes, 1)
        ]
    )


def operation(methods: str, template: str, options: dict[str, Any] | None = None, **facts: Any) -> Any:
    """The only operation of a document with one route."""
    (item,) = document(table((methods, template, options or {})), facts)["paths"].values()
    (only,) = item.values()
    return only


def check(whole: dict[str, Any]) -> None:
    """It is OpenAPI 3.1, as JSON; what the validator does not look at is looked at here."""
    assert json.loads(json.dumps(whole)) == whole
    OpenAPIV31SpecValidator(whole).validate()
    ids = [only["operationId"] for item in whole["paths"].values() for only in item.values()]
    assert len(ids) == len(set(ids))
    for path, item in whole["paths"].items():
        for only in item.values():
            of_path = [parameter["name"] for parameter in only.get("parameters", ()) if parameter["in"] == "path"]
            assert [f"{{{name}}}" for name in of_path] == [part for part in split(path) if part[0] == "{"]


def split(path: str) -> list[str]:
    return [part for part in path.replace("{", "\n{").replace("}", "}\n").split("\n") if part]


# ------------------------------------------------------------ what a route says


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
TODO = {"type": "object", "properties": {"title": TEXT}, "required": ["title"]}


def test_what_a_route_declares_is_in_its_operation() -> None:
    options = {
        "summary": "Change it",
        "description": "All *or* nothing.",
        "tags": ["todo", "write"],
        "deprecated": True,
        "operation_id": "change",
        "security": [{"token": []}],
        "params": {
            "type": "object",
            "properties": {"id": {"type": "integer", "minimum": 1, "description": "of the todo"}},
        },
        "query": {
            "type": "object",
            "properties": {"dry": {"type": "boolean"}, "by": {"type": "string", "deprecated": True}},
            "required": ["by"],
        },
        "headers": {"type": "object", "properties": {"if_match": TEXT}},
        "body": {"media": "json", "schema": {"$ref": "#/components/schemas/Todo"}, "required": False},
        "responses": {
            "201": {
                "description": "changed",
                "schema": {"$ref": "#/components/schemas/Todo"},
                "headers": {"Location": {"schema": TEXT, "description": "where"}},
                "example": {"title": "milk"},
            },
            "404": {"description": "no such todo", "media": "text/plain", "schema": TEXT},
            "204": {},
        },
    }
    facts = {"schemas": {"Todo": TODO}, "security_schemes": {"token": {"type": "http", "scheme": "bearer"}}}
    whole = document(table(("PUT", "/todos/{id:int}", options)), facts)
    check(whole)
    only = whole["paths"]["/todos/{id}"]["put"]
    assert {key: only[key] for key in ("summary", "description", "tags", "deprecated", "operationId", "security")} == {
        "summary": "Change it",
        "description": "All *or* nothing.",
        "tags": ["todo", "write"],
        "deprecated": True,
        "operationId": "change",
        "security": [{"token": []}],
    }
    assert only["parameters"] == [
        {
            "name": "id",
            "in": "path",
            "required": True,
            "description": "of the todo",
            "schema": {"type": "integer", "format": "int64", "minimum": 1},
        },
        {"name": "by", "in": "query", "required": True, "deprecated": True, "schema": TEXT},
        {"name": "dry", "in": "query", "schema": {"type": "boolean"}},
        {"name": "if-match", "in": "header", "schema": TEXT},
    ]
    reference = {"$ref": "#/components/schemas/Todo"}
    assert only["requestBody"] == {"required": False, "content": {"application/json": {"schema": reference}}}
    answers = only["responses"]
    assert answers["201"] == {
        "description": "changed",
        "headers": {"Location": {"schema": TEXT, "description": "where"}},
        "content": {"application/json": {"schema": reference, "example": {"title": "milk"}}},
    }
    assert answers["204"] == {"description": "No Content"}
    assert answers["404"] == {"description": "no such todo", "content": {"text/plain": {"schema": TEXT}}}
    assert set(answers) == ALWAYS | {"201", "204", "401", "404", "413", "415", "422"}
    assert list(answers) == sorted(answers)
    assert whole["components"]["schemas"]["Todo"] == TODO
    assert whole["components"]["securitySchemes"] == facts["security_schemes"]
    assert whole["tags"] == [{"name": "todo"}, {"name": "write"}]


def test_the_app_says_who_it_is_and_where() -> None:
    whole = document(table(), {})
    assert whole == {"openapi": "3.1.0", "info": {"title": "greenlua", "version": "0.0.0"}, "paths": {}}
    facts = {"title": "Todo", "version": "2", "description": "Lists.", "servers": ["https://a.example/v1", "/v1"]}
    whole = document(table(), facts)
    check(whole)
    assert whole["info"] == {"title": "Todo", "version": "2", "description": "Lists."}
    assert whole["servers"] == [{"url": "https://a.example/v1"}, {"url": "/v1"}]


# template -> the path, and the schema of each of its fields
TEMPLATES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "/a": ("/a", []),
    "/{a}": ("/{a}", [{"type": "string", "minLength": 1}]),
    "/{a:int}": ("/{a}", [{"type": "integer", "format": "int64"}]),
    "/{a:int(min=1, max=9)}": ("/{a}", [{"type": "integer", "format": "int64", "minimum": 1, "maximum": 9}]),
    "/{a:int(None, -5)}": ("/{a}", [{"type": "integer", "format": "int64", "minimum": -5}]),
    "/{a:int(3)}/x": ("/{a}/x", [{"type": "string", "pattern": "^[0-9]{3}$"}]),
    "/{a:float(max=1.5)}": ("/{a}", [{"type": "number", "maximum": 1.5}]),
    "/{a:uuid}": ("/{a}", [{"type": "string", "format": "uuid"}]),
    "/{a:dt}": ("/{a}", [{"type": "string", "format": "date-time"}]),
    '/{a:dt("%Y-%m")}': ("/{a}", [{"type": "string"}]),
    "/x/{rest:path}": ("/x/{rest}", [{"type": "string"}]),
    "/{a}-{b:int}.json": (
        "/{a}-{b}.json",
        [{"type": "string", "minLength": 1}, {"type": "integer", "format": "int64"}],
    ),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_gives_path_and_parameters(template: str) -> None:
    path, schemas = TEMPLATES[template]
    routes = table(("GET", template, {}))
    compile_routes(routes, lambda methods: Nothing())  # the router takes it
    whole = document(routes, {})
    check(whole)
    assert list(whole["paths"]) == [path]
    parameters = whole["paths"][path]["get"].get("parameters", [])
    assert [{"in": "path", "required": True}] * len(schemas) == [
        {key: parameter[key] for key in ("in", "required")} for parameter in parameters
    ]
    assert [parameter["schema"] for parameter in parameters] == schemas


class Nothing:
    def on_get(self, req: Any, resp: Any, **params: Any) -> None: ...


def test_integers_of_a_path_are_as_large_as_lua_has_them() -> None:
    routes = table(("GET", "/{a:int(min=0)}", {}))
    schema = document(routes, {}, "luajit")["paths"]["/{a}"]["get"]["parameters"][0]["schema"]
    assert schema == {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**53}


def test_integers_are_those_that_lua_has_and_text_is_text() -> None:
    integer = {"type": "integer"}
    parts = {
        "query": {
            "a": {},
            "b": {"description": "any"},
            "c": {"type": "array", "items": integer},
            "d": {"$ref": "#/components/schemas/N"},
        },
        "body": {
            "l": {"anyOf": [integer, {"type": ["integer", "null"], "minimum": 3}]},
            "e": {"type": "integer", "enum": [1]},
            "x": {},
        },
    }
    options: dict[str, Any] = {"query": {"type": "object", "properties": parts["query"]}}
    options["body"] = {
        "media": "form",
        "schema": {"type": "object", "properties": parts["body"], "additionalProperties": integer},
    }
    for lua, bounds in (("5.4", {}), ("luajit", {"minimum": -(2**53), "maximum": 2**53})):
        whole = document(table(("POST", "/", options)), {"schemas": {"N": {"items": integer, "type": "array"}}}, lua)
        check(whole)
        only = whole["paths"]["/"]["post"]
        int64 = {"type": "integer", "format": "int64"} | bounds
        assert [parameter["schema"] for parameter in only["parameters"]] == [
            {"type": "string"}, {"type": "string"}, {"type": "array", "items": int64}, {"$ref": "#/components/schemas/N"},
        ]  # fmt: skip
        schema = only["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
        assert schema["additionalProperties"] == int64
        assert schema["properties"] == {
            "e": {"type": "integer", "enum": [1]},
            "l": {"anyOf": [int64, int64 | {"type": ["integer", "null"], "minimum": 3}]},
            "x": {"type": "string"},
        }
        assert whole["components"]["schemas"]["N"] == {"type": "array", "items": int64}


# what a route declares of {id:int} -> the schema
MERGED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"type": "integer", "maximum": 5}, {"type": "integer", "format": "int64", "maximum": 5}),
    ({"$ref": "#/components/schemas/Id"}, {"$ref": "#/components/schemas/Id"}),
    ({"type": "number", "multipleOf": 2}, {"type": "number", "multipleOf": 2}),
]


@pytest.mark.parametrize(("declared", "schema"), MERGED)
def test_what_params_say_goes_over_what_the_template_says(declared: dict[str, Any], schema: dict[str, Any]) -> None:
    only = operation("GET", "/{id:int}", {"params": {"type": "object", "properties": {"id": declared}}})
    assert only["parameters"][0]["schema"] == schema


def test_headers_that_openapi_says_elsewhere_are_no_parameters() -> None:
    names = ("Accept", "content_type", "Authorization", "X-Token")
    only = operation("GET", "/", {"headers": {"type": "object", "properties": dict.fromkeys(names, TEXT)}})
    assert [parameter["name"] for parameter in only["parameters"]] == ["X-Token"]


FORM = {"type": "object", "properties": {"a": TEXT}}
UPLOAD = {"type": "object", "properties": {"a": TEXT, "b": {"type": "string", "format": "binary"}}}
UPLOADS = {"type": "object", "properties": {"b": {"type": "array", "items": {"type": "string", "format": "binary"}}}}
URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"


@pytest.mark.parametrize(
    ("media", "schema", "types"),
    [
        ("json", FORM, ["application/json"]),
        ("form", FORM, [URLENCODED, MULTIPART]),
        ("form", UPLOAD, [MULTIPART]),
        ("form", UPLOADS, [MULTIPART]),
    ],
)
def test_a_body_names_the_media_types_that_are_taken(media: str, schema: dict[str, Any], types: list[str]) -> None:
    body = operation("POST", "/", {"body": {"media": media, "schema": schema, "required": True}})["requestBody"]
    assert list(body["content"]) == types
    assert all(content == {"schema": schema} for content in body["content"].values())


JSON_BODY = {"media": "json", "schema": TODO, "required": True}
# method, template, options -> answers beside those that all have
FAULTS: list[tuple[str, str, dict[str, Any], set[str]]] = [
    ("GET", "/a", {}, {"200"}),
    ("DELETE", "/a", {}, {"200"}),
    ("GET", "/{a}", {}, {"200", "404"}),
    ("POST", "/a", {}, {"200", "413"}),
    ("PUT", "/a", {}, {"200", "413"}),
    ("PATCH", "/a", {"responses": {"204": {}}}, {"204", "413"}),
    ("GET", "/a", {"responses": {"302": {}}}, {"302"}),
    ("GET", "/a", {"responses": {"2XX": {}}}, {"2XX"}),
    ("GET", "/a", {"responses": {"418": {}}}, {"200", "418"}),
    ("DELETE", "/a", {"body": JSON_BODY}, {"200", "413", "415", "422"}),
    ("GET", "/a", {"query": FORM}, {"200", "422"}),
    ("GET", "/a", {"headers": FORM}, {"200", "422"}),
    ("GET", "/{a}", {"params": FORM}, {"200", "404", "422"}),
    ("GET", "/a", {"security": []}, {"200"}),
    ("GET", "/a", {"security": [{"token": []}]}, {"200", "401"}),
]


@pytest.mark.parametrize(("method", "template", "options", "answers"), FAULTS)
def test_an_operation_names_the_errors_that_it_can_have(
    method: str, template: str, options: dict[str, Any], answers: set[str]
) -> None:
    assert set(operation(method, template, options)["responses"]) == ALWAYS | answers


def test_what_a_route_declares_of_an_error_stays() -> None:
    said = {"description": "mine", "schema": TEXT}
    whole = document(table(("GET", "/", {"responses": {"500": said}})), {})
    answer = whole["paths"]["/"]["get"]["responses"]["500"]
    assert answer == {"description": "mine", "content": {"application/json": {"schema": TEXT}}}
    assert "InternalServerError" not in whole["components"]["responses"]


@pytest.mark.parametrize(("status", "schema"), [("409", "Problem"), ("422", "InvalidRequest"), ("599", "Problem")])
def test_a_declared_error_without_a_body_is_a_problem_document(status: str, schema: str) -> None:
    every = {key: {"description": "mine", "schema": TEXT} for key in ("400", "404", "422", "500", "503", "504")}
    whole = document(table(("GET", "/{a}", {"responses": every | {status: {"description": "no"}}})), {})
    check(whole)
    answer = whole["paths"]["/{a}"]["get"]["responses"][status]
    assert answer["description"] == "no"
    content = answer["content"]["application/problem+json"]
    assert content["schema"] == {"$ref": f"#/components/schemas/{schema}"}
    assert content["example"]["status"] == int(status)
    assert set(whole["components"]) == {"schemas"}
    assert set(whole["components"]["schemas"]) == {"Problem", schema}


def test_errors_stand_once_however_many_routes_there_are() -> None:
    routes = table(*(("POST", f"/{number}", {"body": JSON_BODY}) for number in range(50)))
    whole = document(routes, {})
    check(whole)
    assert set(whole["components"]["schemas"]) == {"Problem", "InvalidRequest"}
    assert whole["components"]["schemas"]["Problem"]["required"] == ["type", "title", "status"]
    assert len(whole["components"]["responses"]) == 7
    assert whole["paths"]["/7"]["post"]["responses"]["422"] == {"$ref": "#/components/responses/UnprocessableContent"}


def test_a_schema_of_the_app_may_be_called_problem() -> None:
    facts = {"schemas": {"Problem": TODO, "Problem_2": TODO, "InvalidRequest": TODO}}
    whole = document(table(("POST", "/", {"body": JSON_BODY})), facts)
    check(whole)
    schemas = whole["components"]["schemas"]
    assert schemas["Problem"] == schemas["Problem_2"] == schemas["InvalidRequest"] == TODO
    references = {
        answer["content"]["application/problem+json"]["schema"]["$ref"].rpartition("/")[2]
        for answer in whole["components"]["responses"].values()
    }
    assert references == {"Problem_3", "InvalidRequest_2"}
    assert schemas["InvalidRequest_2"]["allOf"] == [{"$ref": "#/components/schemas/Problem_3"}]


def test_operation_ids_come_from_method_and_template_and_differ() -> None:
    routes = table(
        ("GET", "/", {}),
        ("GET POST", "/todos/{id:int}/tags", {}),
        ("GET", "/a/b", {}),
        ("GET", "/a_b", {}),
        ("GET", "/a-b", {"operation_id": "get_a_b_2"}),
    )
    paths = document(routes, {})["paths"]
    assert [only["operationId"] for item in paths.values() for only in item.values()] == [
        "get_root",
        "get_todos_by_id_tags",
        "post_todos_by_id_tags",
        "get_a_b",
        "get_a_b_3",
        "get_a_b_2",
    ]


def test_hidden_routes_and_heads_that_follow_get_are_left_out() -> None:
    hidden = {"hidden": True, "tags": ["secret"], "body": JSON_BODY}
    routes = table(("GET", "/", {}), ("POST", "/a", hidden), ("HEAD GET", "/b", {}), ("OPTIONS", "/b", {}))
    whole = document(routes, {})
    assert {path: set(item) for path, item in whole["paths"].items()} == {
        "/": {"get"},
        "/b": {"head", "get", "options"},
    }
    assert "tags" not in whole
    assert "InvalidRequest" not in whole["components"]["schemas"]


# ------------------------------------------------------------ whatever the routes are

KINDS = ["", ":int", ":int(min=1)", ":float", ":uuid", ":dt", ":int(2)"]
SCHEMAS = st.recursive(
    st.sampled_from(
        [TEXT, NUMBER, {"type": "boolean"}, {"type": ["string", "null"]}, {"$ref": "#/components/schemas/Todo"}]
    ),
    lambda inner: st.one_of(
        inner.map(lambda item: {"type": "array", "items": item}),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(
            lambda fields: {"type": "object", "properties": fields, "required": sorted(fields)[:1]}
        ),
        st.lists(inner, min_size=2, max_size=3).map(lambda items: {"anyOf": items}),
    ),
    max_leaves=4,
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "x_b", "q-1"]), SCHEMAS).map(
    lambda of: {"type": "object", "properties": of}
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "query": OBJECTS,
        "headers": OBJECTS,
        "body": st.builds(
            lambda media, schema, required: {"media": media, "schema": schema, "required": required},
            st.sampled_from(["json", "form"]),
            OBJECTS,
            st.booleans(),
        ),
        "responses": st.dictionaries(
            st.sampled_from(["200", "201", "204", "404", "422", "500"]),
            st.fixed_dictionaries(
                {"description": st.text(max_size=5)},
                optional={
                    "schema": SCHEMAS,
                    "media": st.just("text/plain"),
                    "headers": st.just({"X": {"schema": TEXT}}),
                },
            ),
        ),
        "summary": st.text(max_size=5),
        "tags": st.lists(st.sampled_from(["a", "b"]), unique=True),
        "deprecated": st.booleans(),
        "hidden": st.booleans(),
        "security": st.sampled_from([[], [{}], [{"token": []}]]),
    },
)


@st.composite
def route_rows(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    parts = [
        draw(st.sampled_from(["a", "b-c", "A_b", "ü", f"{{f{depth}{draw(st.sampled_from(KINDS))}}}"]))
        for depth in range(draw(st.integers(0, 3)))
    ]
    methods = draw(
        st.lists(st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS"]), min_size=1, max_size=3, unique=True)
    )
    return " ".join(methods), "/" + "/".join(parts), draw(OPTIONS)


@rules(max_examples=20, deadline=None)
@given(st.lists(route_rows(), max_size=6), st.sampled_from([{}, {"Problem": TEXT}]), st.randoms(use_true_random=False))
def test_any_routes_give_a_valid_document(
    rows: list[tuple[str, str, dict[str, Any]]], schemas: dict[str, Any], chance: random.Random
) -> None:
    facts = {
        "schemas": {"Todo": TODO, **schemas},
        "security_schemes": {"token": {"type": "http", "scheme": "bearer"}},
    }
    try:
        routes = table(*rows)
        compile_routes(routes, lambda methods: Nothing())
    except ConfigurationError:
        assume(False)
    whole = document(routes, facts)
    check(whole)
    # Lua's tables have no order: another process may give the same options in another one.
    again = document(table(*shuffled(rows, chance)), shuffled(facts, chance))
    assert json.dumps(again) == json.dumps(whole)


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffled(value[key], chance) for key in keys}
    if isinstance(value, list | tuple):
        return type(value)(shuffled(item, chance) for item in value)
    return value


# ------------------------------------------------------------ from outside

BOOM = """
local app = greenlua.app { docs = { path = false } }
app:get("/boom", function() error "x" end)
app:get("/slow", function() sleep(60) end)
app:get("/n/{n:int}", function(ctx) return { n = ctx.params.n } end)
app:post("/n", function(ctx) return 201, ctx.body end)
return app
"""


def test_errors_are_what_the_document_says_they_are(write: Write) -> None:
    app = create_app(write(BOOM), watchdog=0, max_body=10, request_timeout=0.2, slots=1, queue_timeout=0.1)
    app.start()
    asked = testing.TestClient(app)
    whole = asked.simulate_get("/openapi.json").json
    check(whole)
    try:
        for method, path, template, status in (
            ("GET", "/boom", "/boom", 500),
            ("GET", "/slow", "/slow", 504),
            ("GET", "/n/x", "/n/{n}", 404),
            ("POST", "/n", "/n", 413),
        ):
            answer = asked.simulate_request(method, path, body="x" * 11 if method == "POST" else None)
            assert answer.status_code == status, path
            conforms(whole, template, method, answer)
        app.stop(1)
        answer = asked.simulate_get("/boom")
        assert (answer.status_code, int(answer.headers["Retry-After"]) >= 0) == (503, True)
        conforms(whole, "/boom", "GET", answer)
    finally:
        app.stop(1)


def conforms(whole: dict[str, Any], template: str, method: str, answer: Any) -> None:
    said = whole["paths"][template][method.lower()]["responses"][str(answer.status_code)]
    component = whole["components"]["responses"][said["$ref"].rpartition("/")[2]]
    schema = component["content"][answer.headers["Content-Type"]]["schema"]
    Draft202012Validator({**schema, "components": whole["components"]}).validate(answer.json)


def run(*arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "greenlua", "openapi", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_the_command_prints_it_or_writes_it_to_a_file(write: Write, tmp_path: Path) -> None:
    path = write(BOOM)
    printed = run(path)
    assert (printed.returncode, printed.stderr) == (0, "")
    whole = json.loads(printed.stdout)
    check(whole)
    assert whole == client(path).simulate_get("/openapi.json").json
    target = tmp_path / "openapi.json"
    written = run(path, "--output", target, "--set", "lua=luajit")
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    on_luajit = json.loads(target.read_text())
    assert on_luajit["paths"]["/n/{n}"]["get"]["parameters"][0]["schema"]["maximum"] == 2**53
    refused = run(path, "--output", tmp_path / "none" / "openapi.json")
    assert refused.returncode == 2
    assert refused.stderr == f"greenlua: {tmp_path}/none/openapi.json cannot be written: No such file or directory\n"
    broken = run(write("return 1", "broken.lua"))
    assert (broken.returncode, broken.stdout) == (2, "")
    assert broken.stderr.startswith("greenlua: broken.lua: it never called greenlua.app")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_have_a_valid_document(path: Path) -> None:
    app = create_app(path, watchdog=0)
    try:
        whole = app.openapi()
    finally:
        app.stop(1)
    check(whole)
    assert whole["paths"]
