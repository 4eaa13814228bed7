"""What is not JSON is a 400 that says where, and never a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from falcon.testing import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from greenlua.testing import client
from greenlua.vm import MODULES

APP = Path(__file__).parent / "apps" / "json.lua"

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@pytest.fixture(scope="module", params=list(MODULES))
def api(request: pytest.FixtureRequest) -> TestClient:
    return client(APP, lua=request.param, slots=8)


def post(api: TestClient, path: str, body: bytes) -> Any:
    return api.post(path, body=body, headers={"Content-Type": "application/json"})


# After the categories of Nicolas Seriot's JSONTestSuite; each with the line and column that the answer names.
INVALID = {
    "only spaces": (b" \n ", 2, 2),
    "two values": (b"1 2", 1, 3),
    "text behind an object": (b'{"a":1}x', 1, 8),
    "two objects": (b"{}\n{}", 2, 1),
    "leading zero": (b"[01]", 1, 2),
    "negative leading zero": (b"-012", 1, 1),
    "plus": (b"+1", 1, 1),
    "minus alone": (b"-", 1, 1),
    "minus with a space": (b"- 1", 1, 1),
    "point without digits before": (b".5", 1, 1),
    "minus and point": (b"-.5", 1, 1),
    "point without digits behind": (b"1.", 1, 2),
    "point and exponent": (b"1.e1", 1, 2),
    "exponent without digits": (b"1e", 1, 2),
    "exponent with a sign only": (b"1e+", 1, 2),
    "two points": (b"1.2.3", 1, 4),
    "hexadecimal": (b"0x1F", 1, 2),
    "NaN": (b"NaN", 1, 1),
    "nan": (b"nan", 1, 1),
    "Infinity": (b"Infinity", 1, 1),
    "-Infinity": (b"-Infinity", 1, 1),
    "inf": (b"[inf]", 1, 2),
    "a number out of range": (b"[1e400]", 1, 2),
    "an integer out of range": (b"1" * 400, 1, 1),
    "underscore": (b"1_000", 1, 2),
    "full-width digit": ("\uff11".encode(), 1, 1),
    "word": (b"truth", 1, 1),
    "capital": (b"True", 1, 1),
    "part of a word": (b"[nul]", 1, 2),
    "two words": (b"truefalse", 1, 5),
    "bare word": (b"{a:1}", 1, 2),
    "single quotes": (b"{'a':1}", 1, 2),
    "line comment": (b"[1] // one", 1, 5),
    "block comment": (b"/* one */ 1", 1, 1),
    "hash comment": (b"[1,\n# two\n2]", 2, 1),
    "trailing comma in an array": (b"[1,]", 1, 4),
    "trailing comma in an object": (b'{"a":1,}', 1, 8),
    "leading comma": (b"[,1]", 1, 2),
    "double comma": (b"[1,,2]", 1, 4),
    "missing comma in an array": (b"[1 2]", 1, 4),
    "missing comma in an object": (b'{"a":1 "b":2}', 1, 8),
    "missing colon": (b'{"a" 1}', 1, 6),
    "double colon": (b'{"a"::1}', 1, 6),
    "missing value": (b'{"a":}', 1, 6),
    "missing key": (b"{:1}", 1, 2),
    "number as a key": (b"{1:1}", 1, 2),
    "null as a key": (b"{null:1}", 1, 2),
    "array as a key": (b"{[]:1}", 1, 2),
    "comma in an object": (b"{,}", 1, 2),
    "wrong bracket": (b'["a"}', 1, 5),
    "wrong brace": (b'{"a":1]', 1, 7),
    "closing bracket": (b"]", 1, 1),
    "unclosed array": (b"[1", 1, 3),
    "unclosed array after a comma": (b"[1,\n", 2, 1),
    "unclosed object": (b'{"a":1', 1, 7),
    "unclosed key": (b'{"a', 1, 2),
    "unclosed string": (b'"abc', 1, 1),
    "string that ends in an escape": (b'"abc\\"', 1, 1),
    "string that ends in a backslash": (b'"abc\\', 1, 1),
    "newline in a string": (b'"a\nb"', 1, 3),
    "tab in a string": (b'"a\tb"', 1, 3),
    "NUL in a string": (b'"a\0b"', 1, 3),
    "control character behind an escape": (b'"\\n\x1f"', 1, 4),
    "NUL outside": (b"\0", 1, 1),
    "NUL behind": (b"1\0", 1, 2),
    "unknown escape": (b'"\\x41"', 1, 2),
    "escaped newline": (b'"\\\n"', 1, 2),
    "escaped quote": (b'"\\\'"', 1, 2),
    "capital U": (b'"\\U0041"', 1, 2),
    "short \\u": (b'"\\u004"', 1, 2),
    "\\u with letters": (b'"\\u00g0"', 1, 2),
    "\\u with a sign": (b'"\\u+041"', 1, 2),
    "high surrogate alone": (b'"\\ud800"', 1, 2),
    "high surrogate before a letter": (b'"\\ud800x"', 1, 2),
    "high surrogate before another": (b'"\\ud800\\ud800"', 1, 2),
    "high surrogate before an escape": (b'"\\ud800\\n"', 1, 2),
    "low surrogate alone": (b'"x\\udc00"', 1, 3),
    "surrogates in the wrong order": (b'"\\udc00\\ud800"', 1, 2),
    "byte order mark": (b"\xef\xbb\xbf1", 1, 1),
    "UTF-16": ("[1]".encode("utf-16-le"), 1, 2),
    "a lone continuation": (b'"\x80"', 1, 2),
    "a truncated character": (b'"\xe2\x82"', 1, 2),
    "an overlong character": (b'"\xc0\xaf"', 1, 2),
    "an encoded surrogate": (b'"\xed\xa0\x80"', 1, 2),
    "a character past Unicode": (b'"\xf4\x90\x80\x80"', 1, 2),
    "a byte that never occurs": (b'[1,\n"\xff"]', 2, 2),
    "columns are characters": ('["é€\U0001f600",x]'.encode(), 1, 8),
    "form feed": (b"\x0c1", 1, 1),
    "no-break space": ("\u00a01".encode(), 1, 1),
    "129 arrays": (b"[" * 129 + b"]" * 129, 1, 129),
    "129 objects": (b'{"":' * 129 + b"1" + b"}" * 129, 1, 513),
    "100,000 arrays": (b"[" * 100_000, 1, 129),
    "100,000 closed arrays": (b"[" * 100_000 + b"]" * 100_000, 1, 129),
    "100,000 objects": (b'{"a":' * 100_000, 1, 641),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_is_not_json_is_a_400_that_says_where(api: TestClient, name: str) -> None:
    body, line, column = INVALID[name]
    result = post(api, "/echo", body)
    assert result.status_code == 400, result.text
    assert result.headers["Content-Type"] == "application/problem+json"
    detail = result.json["detail"]
    assert detail.startswith("the body is not valid JSON: ")
    assert detail.endswith(f"(line {line}, column {column})")


def test_an_empty_body_is_a_400(api: TestClient) -> None:
    result = post(api, "/echo", b"")
    assert (result.status_code, result.json["detail"]) == (400, "the body is empty; this needs JSON")


def test_128_levels_are_fine_both_ways(api: TestClient) -> None:
    for text in ("[" * 128 + "]" * 128, '{"a":' * 127 + "{}" + "}" * 127):
        assert post(api, "/echo", text).text == text


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_broken_json_is_refused_exactly_when_a_strict_parser_refuses_it(api: TestClient, data: st.DataObject) -> None:
    text = bytearray(json.dumps(data.draw(values), ensure_ascii=data.draw(st.booleans())).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        removed = data.draw(st.integers(0, 2))
        text[at : at + removed] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"\\", b'"', b",", b"[", b"0", b"."])
        )
    try:
        msgspec.json.decode(bytes(text))
        status = 200
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = 400
    assert post(api, "/echo", bytes(text)).status_code == status
