"""schemathesis reads the OpenAPI document of examples/todo_sql.lua and looks for requests whose answers it does not describe."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from greenlua.testing import serve

EXAMPLE = Path(__file__).parent.parent / "examples" / "todo_sql.lua"


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with serve(shutil.copy(EXAMPLE, tmp_path), "--quiet") as server:
        ended = subprocess.run(
            [
                *(Path(sys.executable).with_name("st"), "run", f"{server.url}/openapi.json"),
                *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"),
                *("--max-examples", "25", "--seed", "1", "--generation-deterministic"),
                *("--continue-on-failure", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "No issues found" in ended.stdout
    assert "Tested: 5" in ended.stdout
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in ended.stdout, ended.stdout
