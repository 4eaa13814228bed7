"""The access log's three formats."""

from __future__ import annotations

import json
import re

import gevent
import pytest
from front_serving import CLOSE, GET, Serving, echo

from greenlua.http import access


class Lines(list):
    def write(self, text: str) -> None:
        self.append(text)


def logged(form: access.Format, raw: bytes) -> list[str]:
    lines = Lines()
    with Serving(echo, access_log=form, log=lines) as server:
        server.exchange(raw + CLOSE)
    return list(lines)


REQUEST = GET.replace(b"/", b'/a?b="c"', 1) + b'User-Agent: test "er"\r\nReferer: http://b/\r\n\r\n'
STAMP = r"\[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"


def test_common() -> None:
    first, second = logged("common", REQUEST)
    assert re.fullmatch(rf'127\.0\.0\.1 - - {STAMP} "GET /a\?b=\\"c\\" HTTP/1\.1" 200 \d+\n', first)
    assert '"GET /last HTTP/1.1" 200' in second


def test_combined() -> None:
    first, second = logged("combined", REQUEST)
    assert first.endswith(' "http://b/" "test \\"er\\""\n')
    assert second.endswith(' "-" "-"\n')


def test_json() -> None:
    first, _ = logged("json", REQUEST)
    fields = json.loads(first)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", fields.pop("time"))
    assert fields.pop("ms") >= 0
    assert fields.pop("bytes") > 100
    assert fields == {
        "client": "127.0.0.1",
        "method": "GET",
        "target": '/a?b="c"',
        "protocol": "HTTP/1.1",
        "status": 200,
        "host": "a",
        "referer": "http://b/",
        "user_agent": 'test "er"',
    }


def test_control_characters_cannot_forge_a_line() -> None:
    """The front refuses them in a request, so none reaches the log."""
    assert len(logged("combined", GET + b"User-Agent: a\\r\\nb\r\n\r\n")) == 2


def test_off_by_default() -> None:
    lines = Lines()
    with Serving(echo, log=lines) as server:
        server.exchange(CLOSE)
    assert lines == []


def test_unknown_formats_are_named() -> None:
    with pytest.raises(ValueError, match="common, combined, json"):
        access.to_file(Lines(), "apache")  # type: ignore[arg-type]


def test_a_line_is_flushed_soon_and_many_are_flushed_together() -> None:
    class File(Lines):
        flushed: list[int] = []

        def flush(self) -> None:
            self.flushed.append(len(self))

    file = File()
    with Serving(echo, access_log="common", log=file) as server:
        server.exchange(10 * (GET + b"\r\n") + CLOSE)
        server.call(lambda: gevent.sleep(2 * access.FLUSH_AFTER))
        assert file.flushed == [11]
        server.exchange(CLOSE)
        server.call(lambda: gevent.sleep(2 * access.FLUSH_AFTER))
        assert file.flushed == [11, 12]
