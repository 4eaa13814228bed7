"""Takes the picture of docs/openapi.md: /docs of examples/todo_sql.lua, with an operation tried out.

python -m tests.screenshot docs/docs-page.png
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from greenlua.testing import serve
from tests.browser import browser
from tests.test_docs_page import EXAMPLE, try_out


def main(target: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(shutil.copy(EXAMPLE, folder), "--port", "8000") as server,
        browser() as tab,
    ):
        tab.open(f"{server.url}/docs")
        try_out(tab, "post_todos")
        tab.open("about:blank")
        tab.open(f"{server.url}/docs")
        try_out(tab, "get_todos_by_id", id="1")
        tab.screenshot(target, 1100, 1250)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
