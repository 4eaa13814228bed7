"""Schemas as Lua declares them: what JSON Schema they become, which mistakes stop the start, and v.validate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenlua import explanations
from greenlua.errors import ConfigurationError
from greenlua.explanations import ERRORS_MAX, Explainer
from greenlua.schemas import Schema, Schemas
from greenlua.testing import client

Write = Callable[..., Path]

# The code stands in line 2 and following; the sentence is the beginning of the message.
MISTAKES = {
    # keywords
    "local s = v.string { minn = 1 }": "app.lua:2: v.string has no keyword minn; did you mean min?",
    "local s = v.boolean { min = 1 }": (
        "app.lua:2: v.boolean has no keyword min; the keywords are default, deprecated, description, example"
    ),
    "local s = v.string { 5 }": "app.lua:2: v.string has no keyword 1; the keywords are default, deprecated,",
    "local s = v.string()": "app.lua:2: v.string takes a table of keywords, as in v.string { description",
    "local s = v.string(v.string)": "app.lua:2: v.string takes a table of keywords",
    'local s = v.string { min = "1" }': "app.lua:2: min of v.string must be a whole number of 0 or more, not 1",
    "local s = v.string { min = 1.5 }": "app.lua:2: min of v.string must be a whole number of 0 or more, not 1.5",
    "local s = v.string { max = -1 }": "app.lua:2: max of v.string must be a whole number of 0 or more, not -1",
    "local s = v.string { min = 5, max = 4 }": "app.lua:2: v.string can never be: min is 5 and max is 4",
    "local s = v.string { min = 5 }\nlocal t = s { max = 4 }": "app.lua:3: v.string can never be: min is 5 and max is 4",
    "local s = v.integer { min = 2, max = 1 }": "app.lua:2: v.integer can never be: min is 2 and max is 1",
    "local s = v.integer { min = 0.5 }": "app.lua:2: min of v.integer must be a whole number, not 0.5",
    "local s = v.number { max = 0/0 }": "app.lua:2: max of v.number must be a number, not ",
    "local s = v.number { multiple_of = 0 }": "app.lua:2: multiple_of of v.number must be above 0, not 0",
    "local s = v.array(v.any) { min = 2, max = 1 }": "app.lua:2: v.array can never be: min is 2 and max is 1",
    "local s = v.array(v.any) { unique = 1 }": "app.lua:2: unique of v.array must be true or false, not a number",
    "local s = v.map(v.any) { min = 2, max = 1 }": "app.lua:2: v.map can never be: min is 2 and max is 1",
    'local s = v.string { pattern = "(" }': "app.lua:2: pattern of v.string is not a regular expression that is taken here",
    'local s = v.string { pattern = "(?=a)b" }': "app.lua:2: pattern of v.string is not a regular expression that is taken",
    'local s = v.string { pattern = "(a{1000}){1000}" }': "app.lua:2: pattern of v.string is not a regular expression that",
    "local s = v.string { pattern = 5 }": "app.lua:2: pattern of v.string must be a string, not a number",
    'local s = v.string { format = "emial" }': 'app.lua:2: format of v.string does not know "emial"; did you mean email?',
    "local s = v.string { enum = {} }": "app.lua:2: enum of v.string must be a list of at least one value",
    "local s = v.string { enum = { 5 } }": "app.lua:2: item 1 of enum of v.string must be a string, not 5",
    'local s = v.string { enum = { "a", "a" } }': "app.lua:2: item 2 of enum of v.string is there twice: a",
    "local s = v.integer { enum = { 1.5 } }": "app.lua:2: item 1 of enum of v.integer must be an integer, not 1.5",
    "local s = v.string { description = 5 }": "app.lua:2: description of v.string must be a string, not a number",
    "local s = v.string { default = print }": "app.lua:2: default of v.string cannot be JSON: $ is a function",
    # nodes
    "local s = v.strin": "app.lua:2: v has nothing called strin; did you mean string?",
    "local s = v.string.min": "app.lua:2: a schema has no fields, so none called min; its keywords are given as v.string { ... }",
    "v.string.min = 1": "app.lua:2: a schema cannot be changed",
    "v.string = 1": "app.lua:2: v cannot be changed",
    "json.encode(v.string)": "app.lua:2: json.encode: $ is a greenlua.schema, which JSON cannot say",
    "local s = v.array()": "app.lua:2: what v.array takes must be a schema such as v.string, not nil",
    'local s = v.array("x")': "app.lua:2: what v.array takes must be a schema such as v.string, not a string",
    "local s = v.array(v.array)": "app.lua:2: what v.array takes is a function: v.array, v.object and their like must be called",
    "local s = v.array({ a = v.any })": "app.lua:2: what v.array takes must be a schema such as v.string, not a table (v.object",
    'local s = v.object { "x" }': "app.lua:2: v.object is a table of fields by name; there is the key 1",
    "local s = v.object { a = 5 }": "app.lua:2: the field a of v.object must be a schema such as v.string, not a number",
    "local s = v.object(v.string)": "app.lua:2: v.object takes a table of fields, as in v.object { name = v.string }",
    "local s = v.object { a = v.file }": "app.lua:2: the field a of v.object is a v.file, which only a field of v.form can be",
    "local s = v.array(v.file)": "app.lua:2: what v.array takes is a v.file, which only a field of v.form can be",
    "local s = v.any_of(v.string)": "app.lua:2: v.any_of takes two schemas or more",
    "local s = v.any_of(v.string, 5)": "app.lua:2: argument 2 of v.any_of must be a schema such as v.string, not a number",
    "local s = v.const(print)": "app.lua:2: what v.const takes cannot be JSON: $ is a function",
    "local s = v.ref(5)": "app.lua:2: v.ref takes a name of letters, digits, '.', '_' and '-', not 5",
    # names
    'local s = v.ref "Todoo"\napp:schema("Todo", v.string)': "app.lua:2: there is no schema Todoo; did you mean",
    'app:schema("A", { b = v.array(\n v.ref "B") })': "app.lua:3: there is no schema B; ",
    'app:schema("A", v.string)\napp:schema("A", v.string)': "app.lua:3: the schema A is already declared at app.lua:2",
    'app:schema("a b", v.string)': "app.lua:2: app:schema takes a name of letters, digits, '.', '_' and '-', not a b",
    'app:schema("A", v.form {})': "app.lua:2: what app:schema takes is a v.form, which only the option body of a route can be",
    'app:schema("A", v.optional(v.string))': "app.lua:2: what app:schema takes is v.optional, which only a field can be",
    "local s = v.array(v.optional(v.string))": "app.lua:2: what v.array takes is v.optional, which only a field can be",
    "local s = v.map(v.optional(v.string))": "app.lua:2: what v.map takes is v.optional, which only a field can be",
    "local s = v.any_of(v.string, v.optional(v.integer))": "app.lua:2: argument 2 of v.any_of is v.optional, which only a",
    "local s = v.any_of('x')": "app.lua:2: argument 1 of v.any_of must be a schema such as v.string, not a string",
    "local s = v.any_of(nil, v.string)": "app.lua:2: argument 1 of v.any_of must be a schema such as v.string, not nil",
    "local s = v.object({}) { additional = v.optional(v.string) }": "app.lua:2: additional of v.object is v.optional",
    "local s = v.object { a = v.form {} }": "app.lua:2: the field a of v.object is a v.form, which only the option body of a",
    "local s = v.array(v.form {})": "app.lua:2: what v.array takes is a v.form, which only the option body of a route can be",
    'app:post("/", { responses = { [200] = v.form {} } }, print)': "app.lua:2: the body of 200 in the option responses of app:",
    # enums
    'local s = v.string { min = 5, enum = { "large", "a" } }': (
        'app.lua:2: "a" in enum can never be: it must have at least 5 characters'
    ),
    'local s = v.string { enum = { "a" } } { format = "date" }': 'app.lua:2: "a" in enum can never be: it must be a date such as',
    "local s = v.integer { enum = { 1, 2 }, max = 1 }": "app.lua:2: 2 in enum can never be: it must be at most 1",
    # defaults and examples
    "local s = v.string { default = 5 }": "app.lua:2: the default does not fit its own schema: it must be a string",
    "local s = v.string { min = 2, example = 'x' }": (
        "app.lua:2: the example does not fit its own schema: it must have at least 2 characters"
    ),
    "local s = v.object { a = v.integer } { example = { a = 'x' } }": (
        "app.lua:2: the example does not fit its own schema: /a must be an integer"
    ),
    'app:schema("A", v.integer)\nlocal s = v.array(v.ref "A") { default = { "x" } }': (
        "app.lua:3: the default does not fit its own schema: /0 must be an integer"
    ),
    'app:schema("A", { child = v.ref "A" { default = {} } })': (
        "app.lua:2: the default does not fit its own schema: it lacks a default that lacks the same default again"
    ),
    "local s = v.integer { default = 2^60 * 16 }": "app.lua:2: the default does not fit its own schema: it must be at most",
    # options of routes
    'app:get("/{id}", { params = { idd = v.string } }, print)': (
        "app.lua:2: app:get /{id} has no field {idd} in its template, but a schema for it in params"
    ),
    'app:get("/{id:int}", { params = { id = v.string } }, print)': (
        "app.lua:2: app:get /{id:int} gives {id} as int by its template, which is never a string"
    ),
    'app:get("/{id}", { params = { id = v.optional(v.string) } }, print)': (
        "app.lua:2: the option params of app:get /{id} has an optional field"
    ),
    'app:get("/{id}", { params = { id = v.string { default = "x" } } }, print)': (
        "app.lua:2: id of the option params of app:get /{id} has a default, but a field of the template is always there"
    ),
    'app:get("/{id}", { params = { id = v.array(v.string) } }, print)': (
        "app.lua:2: id of the option params of app:get /{id} is one value and cannot be an array"
    ),
    'app:get("/{id}", { params = { id = v.nullable(v.string) } }, print)': (
        "app.lua:2: id of the option params of app:get /{id} is always there and cannot be null"
    ),
    'app:get("/", { query = { q = v.object {} } }, print)': (
        "app.lua:2: q of the option query of app:get / is sent as text and cannot be an object"
    ),
    'app:schema("M", v.map(v.any))\napp:get("/", { query = { q = v.any_of(v.ref "M", v.string) } }, print)': (
        "app.lua:3: q of the option query of app:get / is sent as text and cannot be an object"
    ),
    'app:get("/", { query = v.object { q = v.any } { additional = v.any } }, print)': (
        "app.lua:2: the option query of app:get / takes no additional: what it does not name may always be there, and is text"
    ),
    'app:get("/", { query = { all = v.boolean } }, print)': 'app.lua:2: the option query of app:get / cannot name "all"',
    'app:post("/", { body = v.form { all = v.boolean } }, print)': 'app.lua:2: the option body of app:post / cannot name "all"',
    'app:get("/", { query = { q = v.const { b = 1 } } }, print)': (
        "app.lua:2: q of the option query of app:get / is sent as text and cannot be a table"
    ),
    'app:post("/", { body = v.form {} { additional = v.map(v.any) } }, print)': (
        "app.lua:2: additional of the option body of app:post / is sent as text and cannot be an object"
    ),
    "local s = v.array(v.object { a = v.integer { default = 1 } }) { unique = true, default = { {}, { a = 1 } } }": (
        "app.lua:2: the default does not fit its own schema: it must not have the same item twice"
    ),
    'app:get("/{id:uuid}", { params = { id = v.integer } }, print)': (
        "app.lua:2: app:get /{id:uuid} gives {id} as uuid by its template, which is never an integer"
    ),
    'app:get("/", { query = { q = v.array(v.array(v.string)) } }, print)': (
        "app.lua:2: q of the option query of app:get / is one value and cannot be an array"
    ),
    'app:get("/", { query = v.string }, print)': "app.lua:2: the option query of app:get / must be a table of schemas by name",
    'app:get("/", { query = 5 }, print)': "app.lua:2: the option query of app:get / must be a schema such as v.string, not a",
    'app:get("/", { headers = { ["a b"] = v.string } }, print)': 'app.lua:2: "a b" in the option headers of app:get / is no',
    'app:get("/", { headers = { x_a = v.string, ["X-A"] = v.string } }, print)': "app.lua:2: the header x-a is there twice",
    'app:get("/", { body = v.any }, print)': "app.lua:2: app:get / takes a body, but GET has none",
    'app:route({ "POST", "HEAD" }, "/", { body = v.any }, print)': "app.lua:2: app:route / takes a body, but HEAD has none",
    'app:post("/", { body = v.any, stream_body = true }, print)': "app.lua:2: app:post / has both body and stream_body",
    'app:post("/", { body = v.file }, print)': "app.lua:2: the option body of app:post / is a v.file",
    'app:post("/", { body = v.form { a = v.object {} } }, print)': (
        "app.lua:2: a of the option body of app:post / is sent as text and cannot be an object"
    ),
    'app:get("/", { responses = v.string }, print)': "app.lua:2: the option responses of app:get / must be a table by status",
    'app:get("/", { responses = {} }, print)': "app.lua:2: the option responses of app:get / is empty",
    'app:get("/", { responses = { ok = "x" } }, print)': (
        "app.lua:2: the option responses of app:get / has the key ok, which is no status from 100 to 599"
    ),
    'app:get("/", { responses = { [200] = 5 } }, print)': "app.lua:2: 200 in the option responses of app:get / must be a",
    'app:get("/", { responses = { [200] = { bodi = v.any } } }, print)': (
        "app.lua:2: 200 in the option responses of app:get / has no field bodi; did you mean body?"
    ),
    'app:get("/", { responses = { [200] = { media = "nope" } } }, print)': (
        "app.lua:2: the media of 200 in the option responses of app:get / must be a media type such as text/plain, not"
    ),
    'app:get("/", { responses = { [200] = { headers = { ["x y"] = v.any } } } }, print)': (
        'app.lua:2: "x y" in the headers of 200 in the option responses of app:get / is no header name'
    ),
    'app:get("/", { responses = { [204] = v.any } }, print)': (
        "app.lua:2: 204 in the option responses of app:get / has a body, but status 204 has none"
    ),
    'app:get("/", { responses = { [200] = { body = v.string, example = 5 } } }, print)': (
        "app.lua:2: the example of 200 in the option responses of app:get / does not fit its own schema: it must be a string"
    ),
    'app:get("/", { summary = 5 }, print)': "app.lua:2: the option summary of app:get / must be a string, not a number",
    'app:get("/", { tags = "x" }, print)': "app.lua:2: the option tags of app:get / must be a list of strings",
    'app:get("/", { operation_id = "a b" }, print)': "app.lua:2: the option operation_id of app:get / must be a name of",
    'app:get("/a", { operation_id = "x" }, print)\napp:get("/b", { operation_id = "x" }, print)': (
        "app.lua:3: the option operation_id of app:get /b: x is already used at app.lua:2"
    ),
    'app:get("/", { security = "x" }, print)': "app.lua:2: the option security of app:get / must be a list of security schemes",
    'app:get("/", { security = { "tokn" } }, print)\napp:security_scheme("token", { type = "bearer" })': (
        "app.lua:2: there is no security scheme tokn; did you mean token?"
    ),
    'app:security_scheme("x", { type = "oauth" })': (
        'app.lua:2: the type of the security scheme x must be "bearer", "basic" or "api_key", not oauth'
    ),
    'app:security_scheme("x", { type = "bearer", name = "x" })': "app.lua:2: the security scheme x has no field name",
    'app:security_scheme("x", { type = "api_key", name = "x", where = "body" })': "app.lua:2: where of the security scheme x",
    'v.validate(v.ref "A", 1)\napp:schema("A", v.any)': "app.lua:2: v.validate needs all names of app:schema",
}


def load(path: Path, lua: str, **more: Any) -> Any:
    return client(path, lua=lua, slots=8, **more)


LATE = {
    code: MISTAKES.pop(code)
    for code, sentence in list(MISTAKES.items())
    if "there is no s" in sentence or "fit its" in sentence or "in enum can never be" in sentence
}
LATE |= {
    code: MISTAKES.pop(code) for code in list(MISTAKES) if "cannot be" in MISTAKES[code] and "option" in MISTAKES[code]
}
LATE |= {code: MISTAKES.pop(code) for code in list(MISTAKES) if code.count("app:") > 1 or "v.ref" in code}


def test_a_mistake_in_a_schema_is_an_error_at_its_line(write: Write, lua: str) -> None:
    """Those that the declaration itself refuses, all in one app."""
    calls = "\n".join(f"try([==[\n\n{code}]==])" for code in MISTAKES)  # Lua drops a line's end right behind [==[
    path = write(
        f"""app, messages = greenlua.app {{}}, {{}}
local function try(code)
  local fine, message = pcall(assert(load(code, "@app.lua")))
  table.insert(messages, fine and "no error" or message)
end
{calls}
app:get("/", function() return messages end)
return app"""
    )
    said = dict(zip(MISTAKES, load(path, lua).get("/").json, strict=True))
    assert {code: said[code][: len(sentence)] for code, sentence in MISTAKES.items()} == MISTAKES
    assert not [message for message in said.values() if "[greenlua]" in message]


@pytest.mark.parametrize("code", LATE)
def test_a_mistake_that_only_the_whole_app_shows_stops_the_start_and_names_its_line(
    write: Write, lua: str, code: str
) -> None:
    path = write(f"local app = greenlua.app {{}}\n{code}\nreturn app")
    with pytest.raises(ConfigurationError) as caught:
        load(path, lua)
    assert str(caught.value).startswith(LATE[code]), str(caught.value)
    assert "[greenlua]" not in str(caught.value)


def test_names_that_are_each_other_stop_the_start(write: Write, lua: str) -> None:
    path = write(
        'local app = greenlua.app {}\napp:schema("A", v.ref "B")\napp:schema("B", v.nullable(v.ref "A"))\nreturn app'
    )
    with pytest.raises(ConfigurationError, match=r"app\.lua:[23]: the schema [AB] is itself, with nothing in between"):
        load(path, lua)


# ------------------------------------------------------------ what they become

FORMS = {
    "v.string": {"type": "string"},
    'v.string { min = 1, max = 5, pattern = "^a", description = "d", deprecated = true }': {
        "type": "string",
        "minLength": 1,
        "maxLength": 5,
        "pattern": "^a",
        "description": "d",
        "deprecated": True,
    },
    'v.string { format = "email", example = "a@b.c" }': {"type": "string", "format": "email", "examples": ["a@b.c"]},
    "v.string { min = 1 } { max = 2 }": {"type": "string", "minLength": 1, "maxLength": 2},
    "v.integer { min = -1, max = 5.0, multiple_of = 2, default = 4 }": {
        "type": "integer",
        "minimum": -1,
        "maximum": 5,
        "multipleOf": 2,
        "default": 4,
    },
    "v.number { min = 0.5 }": {"type": "number", "minimum": 0.5},
    "v.integer { enum = { 3, 1 } }": {"type": "integer", "enum": [3, 1]},
    "v.boolean": {"type": "boolean"},
    "v.any": {},
    "v.array(v.string) { min = 1, max = 2, unique = true }": {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "maxItems": 2,
        "uniqueItems": True,
    },
    "v.object { b = v.any, a = v.string, o = v.optional(v.string), d = v.string { default = 'x' } }": {
        "type": "object",
        "properties": {
            "b": {},
            "a": {"type": "string"},
            "o": {"type": "string"},
            "d": {"type": "string", "default": "x"},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "v.object {} { additional = true }": {"type": "object", "properties": {}, "additionalProperties": True},
    "v.object {} { additional = v.integer }": {
        "type": "object",
        "properties": {},
        "additionalProperties": {"type": "integer"},
    },
    "v.map(v.boolean) { min = 1, max = 3 }": {
        "type": "object",
        "additionalProperties": {"type": "boolean"},
        "minProperties": 1,
        "maxProperties": 3,
    },
    "v.nullable(v.string { max = 3 })": {"type": ["string", "null"], "maxLength": 3},
    "v.nullable(v.string) { max = 3 }": {"type": ["string", "null"], "maxLength": 3},
    'v.nullable(v.string { enum = { "a" }, default = "a" })': {
        "anyOf": [{"type": "string", "enum": ["a"], "default": "a"}, {"type": "null"}],
        "default": "a",
    },
    'v.nullable(v.ref "Named")': {"anyOf": [{"$ref": "#/components/schemas/Named"}, {"type": "null"}]},
    'v.any_of(v.string, v.ref "Named")': {"anyOf": [{"type": "string"}, {"$ref": "#/components/schemas/Named"}]},
    'v.const("a")': {"type": "string", "const": "a"},
    "v.const(5)": {"type": "integer", "const": 5},
    "v.const(json.null)": {"type": "null", "const": None},
    "v.const({ 1, 2 })": {"const": [1, 2]},
    'v.ref "Named" { description = "d" }': {"$ref": "#/components/schemas/Named", "description": "d"},
}


def test_schemas_become_json_schema(write: Write, lua: str) -> None:
    declared = "\n".join(f'app:schema("S{n}", {code})' for n, code in enumerate(FORMS))
    api = load(write(f'local app = greenlua.app {{}}\napp:schema("Named", v.any)\n{declared}\nreturn app'), lua)
    schemas = api.app.load().vm.facts["schemas"]
    for n, (code, form) in enumerate(FORMS.items()):
        assert schemas[f"S{n}"] == form, code
        jsonschema_rs.meta.validate(schemas[f"S{n}"])


ROUTES = """local app = greenlua.app {}
app:security_scheme("token", { type = "bearer", description = "ours" })
app:security_scheme("key", { type = "api_key", name = "X-Key", where = "header" })
app:security_scheme("login", { type = "basic" })
local todo = app:schema("Todo", { title = v.string })
app:group("/g", { tags = { "a", "b" }, security = { "token" } }, function(g)
  g:post("/{id:int}", {
    params = { id = v.integer { min = 1 } },
    query = { q = v.optional(v.string), n = v.integer },
    headers = { X_Token = v.string, ["If-Match"] = v.optional(v.string) },
    body = v.optional(todo),
    responses = {
      [201] = {
        description = "made", body = todo, example = { title = "x" },
        headers = { Location = v.string { description = "where" } },
      },
      [202] = "later",
      [404] = { media = "text/plain" },
      [200] = v.array(todo),
    },
    summary = "s", description = "d", operation_id = "op", deprecated = true, hidden = false,
  }, print)
  g:put("/form", { body = v.form { a = v.integer, f = v.optional(v.file { max = 9 }) }, security = {} }, print)
  g:put("/both", { security = { { token = { "read" }, key = {} }, "login" } }, print)
end)
return app
"""
TODO = {"$ref": "#/components/schemas/Todo"}


def test_a_route_tells_python_its_contract(write: Write, lua: str) -> None:
    api = load(write(ROUTES), lua)
    facts = api.app.load().vm.facts
    assert facts["schemas"] == {
        "Todo": {
            "type": "object",
            "properties": {"title": {"type": "string"}},
            "required": ["title"],
            "additionalProperties": False,
        }
    }
    assert facts["security_schemes"] == {
        "token": {"type": "http", "scheme": "bearer", "description": "ours"},
        "key": {"type": "apiKey", "in": "header", "name": "X-Key"},
        "login": {"type": "http", "scheme": "basic"},
    }
    options = {route.template: route.options for route in api.app.table.routes}
    assert options["/g/{id:int}"] == {
        "tags": ["a", "b"],
        "security": [{"token": []}],
        "params": {"type": "object", "properties": {"id": {"type": "integer", "minimum": 1}}, "required": ["id"]},
        "query": {
            "type": "object",
            "properties": {"q": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["n"],
        },
        "headers": {
            "type": "object",
            "properties": {"x-token": {"type": "string"}, "if-match": {"type": "string"}},
            "required": ["x-token"],
        },
        "body": {"media": "json", "schema": TODO, "required": False},
        "responses": {
            "201": {
                "description": "made",
                "schema": TODO,
                "headers": {
                    "Location": {
                        "schema": {"type": "string", "description": "where"},
                        "description": "where",
                        "required": True,
                    }
                },
                "example": {"title": "x"},
            },
            "202": {"description": "later"},
            "404": {"description": "Not Found", "media": "text/plain"},
            "200": {"description": "OK", "schema": {"type": "array", "items": TODO}},
        },
        "summary": "s",
        "description": "d",
        "operation_id": "op",
        "deprecated": True,
        "hidden": False,
    }
    assert options["/g/form"]["security"] == []
    assert options["/g/form"]["body"] == {
        "media": "form",
        "schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "f": {"type": "string", "format": "binary", "maxLength": 9}},
            "required": ["a"],
            "additionalProperties": False,
        },
        "required": True,
    }
    assert options["/g/both"]["security"] == [{"token": ["read"], "key": []}, {"login": []}]


def test_with_drop_an_object_says_nothing_of_other_fields(write: Write, lua: str) -> None:
    code = 'app:schema("A", { a = v.any })\napp:schema("B", v.object { a = v.any } { additional = true })'
    api = load(write(f"local app = greenlua.app {{}}\n{code}\nreturn app"), lua, unknown_fields="drop")
    schemas = api.app.load().vm.facts["schemas"]
    assert "additionalProperties" not in schemas["A"]
    assert schemas["B"]["additionalProperties"] is True


# ------------------------------------------------------------ v.validate

VALIDATING = """local app = greenlua.app {}
app:schema("Tree", { value = v.integer { default = 7 }, children = v.array(v.ref "Tree") { default = {} } })
local SCHEMAS = {
  tree = v.ref "Tree",
  text = v.string { min = 2, max = 3 },
  null = v.nullable(v.integer),
  shape = v.any_of(
    v.object { kind = v.const "circle", r = v.number, name = v.string { default = "round" } },
    v.object { kind = v.const "square", a = v.number, name = v.string { default = "edged" } }),
  pick = v.any_of(
    v.object { a = v.integer, x = v.integer { default = 1 } }, v.object { a = v.string, x = v.integer { default = 2 } },
    v.object { a = v.boolean, x = v.integer { default = 3 } }),
  deep = v.object { a = v.object { b = v.integer { default = 3 } } { default = {} } },
}
app:post("/{name}", function(ctx)
  local value, errors = v.validate(SCHEMAS[ctx.params.name], ctx.json)
  return response.json { value = value, errors = errors, absent = value == nil }
end)
app:get("/made/{n:int}", function(ctx)
  local value, errors = v.validate(v.string { max = ctx.params.n, example = "x" }, "word")
  return { value = value, errors = errors }
end)
app:get("/odd", function()
  local function faults(...) return (select(2, v.validate(...))) or {} end
  return {
    faults(v.any, print), faults(v.object { a = v.number }, { a = 0/0 }), faults(v.string, "\\255"), faults(v.string, nil),
    faults(v.optional(v.string), nil), { (v.validate(v.integer { default = 5 }, nil)) },
    { (v.validate(v.object { a = v.integer { default = 6 } } { default = {} }, nil)) },
  }
end)
app:get("/kept", function()
  local value = { a = {} }
  local copy = v.validate(SCHEMAS.deep, value)
  return { value.a.b == nil, copy.a.b, math.type and math.type(v.validate(v.integer, 3.0)) }
end)
app:get("/bad", function() v.validate(v.string { default = 5 }, "x") end)
app:get("/unknown", function() v.validate(v.ref "Nobody", "x") end)
app:get("/large", function() v.validate(v.any, ("x"):rep(2^20)) end)
return app
"""


def test_any_value_can_be_validated_in_a_handler(write: Write, lua: str, caplog: pytest.LogCaptureFixture) -> None:
    api = load(write(VALIDATING), lua)

    def ask(name: str, value: Any) -> Any:
        answer = api.simulate_post(f"/{name}", body=json.dumps(value))
        assert answer.status_code == 200, answer.text
        return answer.json

    assert ask("text", "ab")["value"] == "ab"
    assert ask("text", "a") == {
        "absent": True,
        "errors": [{"pointer": "", "message": "must have at least 2 characters"}],
    }
    assert ask("tree", {"children": [{"value": 1}, {"children": []}]})["value"] == {
        "value": 7,
        "children": [{"value": 1, "children": []}, {"value": 7, "children": []}],
    }
    assert ask("tree", {"children": [{"value": "x", "no~/": 1}]})["errors"] == [
        {"pointer": "/children/0/value", "message": "must be an integer"},
        {"pointer": "/children/0/no~0~1", "message": "is not a field that is known here"},
    ]
    assert ask("null", None) == {"absent": False, "value": None}
    assert ask("null", "x")["errors"] == [{"pointer": "", "message": "must be an integer or null"}]
    assert ask("shape", {"kind": "square", "a": 2})["value"] == {"kind": "square", "a": 2, "name": "edged"}
    assert ask("shape", {"kind": "square", "r": 2})["errors"] == [
        {"pointer": "/a", "message": "is required"},
        {"pointer": "/r", "message": "is not a field that is known here"},
    ]
    for a, x in ((7, 1), ("text", 2), (True, 3)):
        assert ask("pick", {"a": a})["value"] == {"a": a, "x": x}
    assert ask("deep", {})["value"] == {"a": {"b": 3}}
    assert api.get("/made/4").json == {"value": "word"}
    assert api.get("/made/3").json == {"errors": [{"pointer": "", "message": "must have at most 3 characters"}]}
    assert api.get("/kept").json[:2] == [True, 3]
    if lua != "luajit":
        assert api.get("/kept").json[2] == "integer"
    odd = api.get("/odd").json
    assert [fault["message"] for [fault] in odd[:3]] == [
        "$ is a function, which JSON cannot say", "$.a is NaN, which JSON cannot say", "$ is not valid UTF-8",
    ]  # fmt: skip
    assert odd[3:] == [[{"pointer": "", "message": "is required"}], {}, [5], [{"a": 6}]]
    for path, sentence in {
        "/bad": "app.lua:36: the default does not fit its own schema: it must be a string",
        "/unknown": "app.lua:37: there is no schema Nobody; the schemas are Tree",
        "/large": "app.lua:38: v.validate takes values of at most 1048576 bytes as JSON, not 1048578",
    }.items():
        caplog.clear()
        assert api.get(path).status_code == 500
        assert sentence in caplog.text


ALTERNATIVES = """local app = greenlua.app {}
local circle = app:schema("Circle", v.object { kind = v.const "circle", r = v.number { min = 0 } })
local shape = app:schema("Shape", v.any_of(circle, v.object { kind = v.const "square", w = v.number }, v.nullable(circle)))
local kinds = {}
for number = 1, 12 do kinds[number] = v.object { kind = v.const("k" .. number) } end
local many = v.any_of((table.unpack or unpack)(kinds))
local SCHEMAS = {
  shape = shape,
  shapes = v.array(v.object { at = v.nullable(shape) }),
  bare = v.any_of(v.object { r = v.number }, v.object { w = v.number, h = v.number }),
  mixed = v.any_of(v.integer, v.const "auto", v.string { enum = { "a", "b" } }),
  null = v.nullable(v.const "x"),
  list = v.any_of(v.array(v.integer), v.array(v.string)),
  words = v.any_of(v.string { min = 3 }, v.string { pattern = "^x" }),
  loose = v.any_of(
    v.object { kind = v.optional(v.const "a"), x = v.any }, v.object { kind = v.optional(v.const "b"), y = v.any }),
  many = many,
  two = v.any_of(v.object { kind = v.const "a", sort = v.const "x" }, v.object { kind = v.const "a", sort = v.const "y" }),
  choice = v.nullable(v.string) { enum = { "a", "b" } },
  either = v.any_of(v.string, v.object { a = v.integer }, v.object { b = v.integer }),
}
app:post("/{name}", function(ctx) return select(2, v.validate(SCHEMAS[ctx.params.name], ctx.json)) or {} end)
return app
"""
NONE_FITS = "must fit one of the 2 alternatives that there are here"


@pytest.mark.parametrize(
    ("name", "value", "faults"),
    [
        ("shape", {"kind": "triangle"}, ['/kind must be "circle" or "square"']),
        ("shape", {"r": 1}, ['/kind is required: "circle" or "square"']),
        ("shape", {"kind": "circle", "r": -1}, ["/r must be at least 0"]),
        ("shape", {"kind": "square"}, ["/w is required"]),
        ("shape", 5, [" must be an object or null"]),
        ("shapes", [{"at": {"kind": "circle", "r": "x"}}], ["/0/at/r must be a number"]),
        ("shapes", [{"at": None}, {"at": {"kind": 7}}], ['/1/at/kind must be "circle" or "square"']),
        ("bare", {"r": "x"}, ["/r must be a number"]),
        ("bare", {"w": 1, "h": []}, ["/h must be a number"]),
        ("bare", {}, [f" {NONE_FITS}: one with r, or one with h, w"]),
        ("bare", {"r": 1, "w": 1}, [f" {NONE_FITS}: one with r, or one with h, w"]),
        ("bare", "x", [" must be an object"]),
        ("mixed", "x", [' must be an integer or "auto" or one of "a", "b"']),
        ("mixed", True, [' must be an integer or "auto" or one of "a", "b"']),
        ("null", "y", [' must be "x" or null']),
        ("list", [1, "x"], [f" {NONE_FITS}"]),
        ("list", 1, [" must be an array"]),
        ("words", "y", [f" {NONE_FITS}"]),
        ("either", {"a": "x"}, ["/a must be an integer"]),
        ("either", {"c": 1}, [" must fit one of the 3 alternatives that there are here: one with a, or one with b"]),
        ("either", 1, [" must be a string or an object"]),
        ("loose", {}, [" must fit one of the 2 alternatives that there are here: one with x, or one with y"]),
        ("loose", {"kind": "c"}, ['/kind must be "a" or "b"']),
        ("many", {"kind": "z"}, ['/kind must be one of ' + ", ".join(f'"k{at}"' for at in range(1, 11)) + " or 2 others"]),
        ("two", {"kind": "a", "sort": "z"}, ['/sort must be "x" or "y"']),
        ("choice", None, []),
        ("choice", "c", [' must be one of "a", "b", null']),
    ],
)  # fmt: skip
def test_of_alternatives_the_one_that_is_meant_is_gone_into(
    write: Write, name: str, value: Any, faults: list[str]
) -> None:
    answer = load(write(ALTERNATIVES), "5.4").simulate_post(f"/{name}", body=json.dumps(value))
    assert [f"{fault['pointer']} {fault['message']}" for fault in answer.json] == faults


UNIQUE = """local app = greenlua.app {}
local list = v.array(v.object { id = v.integer, q = v.integer { default = 1 } }) { unique = true }
app:schema("List", list)
app:post("/body", { body = { l = v.ref "List" } }, function(ctx) return ctx.json end)
app:post("/value", function(ctx) return select(2, v.validate(list, ctx.json)) or { "fine" } end)
return app
"""


@pytest.mark.parametrize("rule", ["refuse", "drop"])
def test_items_are_different_with_their_defaults_too(write: Write, rule: str) -> None:
    api = load(write(UNIQUE), "5.4", unknown_fields=rule)
    twice: list[Any] = [{"id": 1}, {"id": 1, "q": 1} if rule == "refuse" else {"id": 1, "z": 9}]
    answer = api.simulate_post("/body", json={"l": twice})
    assert (answer.status_code, answer.json.get("errors")) == (
        422,
        [{"pointer": "/body/l", "message": "must not have the same item twice"}],
    )
    assert api.simulate_post("/value", json=twice).json == [
        {"pointer": "", "message": "must not have the same item twice"}
    ]
    fine = [{"id": 1}, {"id": 1, "q": 2}]
    assert api.simulate_post("/body", json={"l": fine}).json == {"l": [{"id": 1, "q": 1}, {"id": 1, "q": 2}]}
    assert api.simulate_post("/value", json=fine).json == ["fine"]


# ------------------------------------------------------------ agreement with jsonschema-rs

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.sampled_from([0.5, 2.0, -1.5]) | st.text("ab1", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
LEAVES = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {"type": st.just("string")}, optional={"minLength": st.integers(0, 2), "maxLength": st.integers(0, 3)}
    ),
    st.fixed_dictionaries(
        {"type": st.just("integer")}, optional={"minimum": st.integers(-5, 5), "multipleOf": st.just(2)}
    ),
    st.fixed_dictionaries({"type": st.just("number")}, optional={"maximum": st.integers(-5, 5)}),
    st.just({"type": "boolean"}),
    st.just({"type": ["string", "null"]}),
    st.just({"type": "string", "pattern": "^a"}),
    st.builds(lambda value: {"const": value}, PLAIN),
    st.builds(lambda values: {"enum": values}, st.lists(PLAIN, min_size=1, max_size=3)),
    st.just({"$ref": "#/components/schemas/Named"}),
)


def objects(inner: Any) -> Any:
    return st.builds(
        lambda properties, additional, required: {
            "type": "object",
            "properties": properties,
            "required": [name for name in required if name in properties],
            "additionalProperties": additional,
        },
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.booleans() | inner,
        st.lists(st.sampled_from("abc"), unique=True),
    )


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(inner),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"uniqueItems": st.just(True)}),
        st.builds(lambda alternatives: {"anyOf": alternatives}, st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=6,
)
NAMED = {
    "Named": {"type": "object", "properties": {"a": {"$ref": "#/components/schemas/Named"}, "b": {"type": "integer"}}}
}


@settings(max_examples=400, deadline=None)
@given(definition=SCHEMAS, value=PLAIN)
def test_validate_agrees_with_jsonschema(definition: dict[str, Any], value: Any) -> None:
    ours = Schemas("5.4", drop=False)
    assert ours.define(json.dumps(NAMED).encode()) is True
    verdict, result = ours.validate(json.dumps(definition).encode(), json.dumps(value).encode())
    whole = {**definition, "components": {"schemas": NAMED}}
    assert verdict is jsonschema_rs.Draft202012Validator(whole).is_valid(value)
    if verdict:
        assert json.loads(result) == value
    else:
        faults = json.loads(result)
        assert 1 <= len(faults) <= ERRORS_MAX
        for fault in faults:
            assert "too large to say where" not in fault["message"]
            at = value
            *steps, last = fault["pointer"].split("/")
            for step in steps[1:]:
                at = at[int(step) if isinstance(at, list) else step]
            if fault["message"] == "is required":
                assert last not in at
            elif fault["pointer"]:
                assert last in at or isinstance(at, list)


def test_faults_are_bounded_however_many_there_are() -> None:
    ours = Schemas("5.4", drop=False)
    ours.define(b"{}")
    many = Schema(ours, ours.strict({"type": "array", "items": {"type": "integer"}}))
    assert len(many.explain(["x"] * 100000)) == ERRORS_MAX
    shown = many.explain(["x" * 1000])
    assert all(len(fault["message"]) < 200 for fault in shown)
    strange = Schema(ours, ours.strict({"type": "object", "properties": {}, "additionalProperties": False}))
    [fault] = strange.explain({"y" * 1000: 1})
    assert len(fault["pointer"]) < 60


def test_alternatives_inside_alternatives_do_not_explode() -> None:
    """Each level has two alternatives that differ only at its end: all ways would be 2 to the 100."""
    ours = Schemas("5.4", drop=False)
    ref = {"$ref": "#/components/schemas/T"}
    sides = [
        {"type": "object", "properties": {"a": ref, "k": {"type": kind}}, "required": ["k"]}
        for kind in ("integer", "null")
    ]
    assert ours.define(json.dumps({"T": {"anyOf": [*sides, {"type": "integer"}]}}).encode()) is True
    value: Any = 1
    for _ in range(100):
        value = {"a": value, "k": None}
    verdict, _ = ours.validate(json.dumps(ref).encode(), json.dumps(value).encode())
    assert verdict is True
    value = "x"
    for _ in range(100):
        value = {"a": value, "k": None}
    verdict, faults = ours.validate(json.dumps(ref).encode(), json.dumps(value).encode())
    assert verdict is False
    assert "alternatives" in json.loads(faults)[0]["message"]


def test_deep_inside_nobody_is_blamed_who_is_right() -> None:
    ours = Schemas("5.4", drop=False)
    inner: Any = {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "number"}]}},
            "x": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "string", "pattern": "^a"}]},
            "o": {"anyOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]},
        },
    }
    value: Any = {"list": [1, 2.5, "bad"], "x": "fine", "o": {"b": 1}}
    for _ in range(12):
        inner, value = {"type": "object", "properties": {"in": inner}}, {"in": value}
    schema = Schema(ours, ours.strict(inner))
    assert schema.explain(value) == [{"pointer": "/in" * 12 + "/list/2", "message": "must be an integer or a number"}]


def test_many_alternatives_of_many_values_are_looked_at_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def counting(definition: Any) -> Any:
        def meant(value: Any) -> bool:
            nonlocal looked
            looked += 1
            return True

        return meant

    monkeypatch.setattr(explanations, "meant_for", counting)
    ours = Schemas("5.4", drop=False)
    ref = {"$ref": "#/components/schemas/T"}
    kinds = [
        {"type": "object", "properties": {f"p{at}": {"type": "integer"}}, "required": [f"p{at}"]} for at in range(300)
    ]
    named = {"T": {"anyOf": [{"type": "array", "items": ref}, *kinds]}}
    assert ours.define(json.dumps(named).encode()) is True
    value: Any = [{"p1": 1}] * 20000 + [{"p1": "x"}]
    for _ in range(9):
        value = [value]
    assert Schema(ours, ref).explain(value)
    assert looked <= explanations.STEPS_MAX + 400


def test_defaults_of_one_value_are_not_those_of_the_next() -> None:
    """Which alternative a value fits may change with what is filled in, so a default is never filled in itself."""
    ours = Schemas("5.4", drop=False)
    inner = {"type": "object", "properties": {"n": {"type": "integer", "default": 5}}}
    definition = ours.strict({"type": "object", "properties": {"inner": {**inner, "default": {}}}})
    fill = Schema(ours, definition).fill
    assert fill is not None
    assert [fill({}), fill({})] == [{"inner": {"n": 5}}] * 2
    assert definition["properties"]["inner"]["default"] == {}


def test_an_explanation_ends_when_it_has_looked_at_enough() -> None:
    ours = Schemas("5.4", drop=False)
    ref = {"$ref": "#/components/schemas/T"}
    ours.define(json.dumps({"T": {"type": "object", "properties": {"a": {"type": "array", "items": ref}}}}).encode())
    value: Any = {"a": [{"a": [{} for _ in range(300)]} for _ in range(300)] + [{"a": 1}]}
    for _ in range(60):
        value = {"a": [value]}
    explainer = Explainer(ours.fits, ours.resolve, ref)
    assert explainer.explain(value) == [{"pointer": "", "message": "does not fit; it is too large to say where"}]
