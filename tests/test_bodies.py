"""Bodies: ctx.body, ctx.json's media types, forms and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient

from greenlua.testing import client
from greenlua.vm import MODULES

APP = Path(__file__).parent / "apps" / "context.lua"
URLENCODED = "application/x-www-form-urlencoded"
BINARY = bytes(range(256)) * 3 + b"\r\n--X\r\n\r\n"


@pytest.fixture(scope="module", params=list(MODULES))
def api(request: pytest.FixtureRequest) -> TestClient:
    return client(APP, lua=request.param, slots=8)


def post(api: TestClient, path: str, body: bytes, content_type: str | None) -> Any:
    return api.post(path, body=body, headers={} if content_type is None else {"Content-Type": content_type})


@pytest.mark.parametrize("body", [b"", b"\0", BINARY, b"x" * 100_000], ids=["empty", "NUL", "binary", "long"])
def test_the_body_is_the_bytes_that_were_sent(api: TestClient, body: bytes) -> None:
    result = post(api, "/body", body, "application/octet-stream")
    assert result.content == body
    assert result.headers["X-Length"] == str(len(body))


JSON_TYPES = [
    (None, 200),
    ("application/json", 200),
    ("APPLICATION/JSON", 200),
    ("application/json; charset=utf-8", 200),
    (" application/json ;x", 200),
    ("application/problem+json", 200),
    ("application/vnd.api+json; v=1", 200),
    ("text/json", 200),
    ("text/plain", 415),
    ("text/\xff\xfe", 415),
    ("application/jsonp", 415),
    ("application/json-seq", 415),
    ("xapplication/json", 415),
    (URLENCODED, 415),
    ("multipart/form-data; boundary=x", 415),
]


@pytest.mark.parametrize(("content_type", "status"), JSON_TYPES)
def test_json_takes_json_types_only(api: TestClient, content_type: str | None, status: int) -> None:
    result = post(api, "/json", b'{"a":1}', content_type)
    assert result.status_code == status
    if status == 200:
        assert result.json == {"a": 1}
    else:
        kind = content_type.partition(";")[0] if content_type else ""
        kind = "".join(char if char.isascii() else "?" for char in kind)
        assert result.json["detail"] == f"the body is {kind}; this needs application/json"


@pytest.mark.parametrize("text", [b"false", b"null", b"0", b'""'])
def test_json_may_be_any_value(api: TestClient, text: bytes) -> None:
    assert post(api, "/json", text, "application/json").content == text


# ---------------------------------------------------------------- forms

FORMS: list[tuple[bytes, dict[str, list[str]]]] = [
    (b"", {}),
    (b"a=1&b=2&a=3", {"a": ["1", "3"], "b": ["2"]}),
    (b"a=x+y%2Bz&%C3%A4=%E2%82%AC", {"a": ["x y+z"], "ä": ["€"]}),
    ("ä=€".encode(), {"ä": ["€"]}),
    (b"=1&a", {"": ["1"], "a": [""]}),
]


@pytest.mark.parametrize(("body", "lists"), FORMS)
@pytest.mark.parametrize("content_type", [None, URLENCODED, URLENCODED.upper() + "; charset=utf-8"])
def test_an_urlencoded_form_is_read_like_a_query(
    api: TestClient, body: bytes, lists: dict[str, list[str]], content_type: str | None
) -> None:
    result = post(api, "/form", body, content_type)
    assert result.json == {"first": {name: values[0] for name, values in lists.items()}, "all": lists}


BAD_FORMS = [
    (b"a=%FF", URLENCODED, 400, "the form is not valid UTF-8"),
    (b"a&" * 1001, URLENCODED, 400, "the form has more than 1000 fields"),
    (b"{}", "application/json", 415, "the body is application/json; this needs application/x-www-form-urlencoded"),
    (b"", "text/plain", 415, "the body is text/plain; this needs application/x-www-form-urlencoded"),
]


@pytest.mark.parametrize(("body", "content_type", "status", "detail"), BAD_FORMS)
@pytest.mark.parametrize("path", ["/form", "/files"])
def test_a_bad_form_is_the_clients_fault(
    api: TestClient, path: str, body: bytes, content_type: str, status: int, detail: str
) -> None:
    result = post(api, path, body, content_type)
    assert (result.status_code, result.json["detail"]) == (status, detail)


def test_form_and_files_come_from_one_reading(api: TestClient) -> None:
    assert post(api, "/form/either", b"a=1", URLENCODED).json == {"same": True, "json": False}
    assert post(api, "/form/either", multipart(('name="a"', None, b"1")), MULTIPART).json == {
        "same": True,
        "json": False,
    }


# ---------------------------------------------------------------- multipart

MULTIPART = "multipart/form-data; boundary=X"


def multipart(*parts: tuple[str, str | None, bytes]) -> bytes:
    """A body of parts: parameters of the disposition, content type, content."""
    body = b""
    for disposition, content_type, content in parts:
        body += f"--X\r\nContent-Disposition: form-data; {disposition}\r\n".encode()
        if content_type is not None:
            body += f"Content-Type: {content_type}\r\n".encode()
        body += b"\r\n" + content + b"\r\n"
    return body + b"--X--\r\n"


def test_multipart_gives_fields_and_files_exactly(api: TestClient) -> None:
    binary = BINARY.replace(b"--X", b"--Y")
    body = multipart(
        ('name="title"', None, "ä €".encode()),
        ('name="tag"', None, b"1"),
        ('name="tag"', None, b"2"),
        ('name="file"; filename="a.bin"', "application/x-thing", binary),
        ('name="file"; filename="b.txt"', "text/plain; charset=x", b""),
        ('name="other"; filename="ä b.txt"', None, b"\xff"),
        ('name="none"; filename=""', "application/octet-stream", b""),  # nobody has chosen a file
    )
    result = post(api, "/files", body, MULTIPART)
    assert result.status_code == 200, result.text
    assert result.json["form"] == {"title": "ä €", "tag": "1"}
    assert result.json["files"] == {
        "file": [
            {"name": "file", "filename": "a.bin", "content_type": "application/x-thing", "hex": binary.hex()},
            {"name": "file", "filename": "b.txt", "content_type": "text/plain; charset=x", "hex": ""},
        ],
        "other": [{"name": "other", "filename": "ä b.txt", "content_type": "text/plain", "hex": "ff"}],
    }
    assert post(api, "/form", body, MULTIPART).json["all"] == {"title": ["ä €"], "tag": ["1", "2"]}


def test_a_thousand_parts_are_fine(api: TestClient) -> None:
    body = multipart(*[(f'name="n{i}"', None, b"x") for i in range(999)])
    assert len(post(api, "/form", body, MULTIPART).json["first"]) == 999


FIELD = multipart(('name="a"', None, b"1"))
BAD_MULTIPART = {
    "no boundary": (FIELD, "multipart/form-data"),
    "empty boundary": (FIELD, "multipart/form-data; boundary="),
    "another boundary": (FIELD, "multipart/form-data; boundary=Y"),
    "empty": (b"", MULTIPART),
    "truncated": (FIELD[:-12], MULTIPART),
    "no part": (b"hello", MULTIPART),
    "headers without an end": (b"--X\r\nContent-Disposition: form-data; name=a", MULTIPART),
    "long headers": (b"--X\r\nA: " + b"x" * 100_000 + b"\r\n\r\n1\r\n--X--\r\n", MULTIPART),
    "a text that is not UTF-8": (multipart(('name="a"', None, b"\xff")), MULTIPART),
    "too many parts": (multipart(*[('name="a"', None, b"")] * 1100), MULTIPART),
    "a filename in an unknown charset": (multipart(("name=\"a\"; filename*=nope''x", None, b"1")), MULTIPART),
}


@pytest.mark.parametrize("name", BAD_MULTIPART)
def test_malformed_multipart_is_a_400(api: TestClient, name: str) -> None:
    body, content_type = BAD_MULTIPART[name]
    result = post(api, "/files", body, content_type)
    assert result.status_code == 400, result.text
    assert result.json["detail"].startswith("the form ")
