"""What a VM has freed goes back to the operating system."""

from __future__ import annotations

import itertools
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from greenlua import memory
from greenlua.memory import EVERY, GROWN, SELDOM, Trimmer
from greenlua.testing import serve

MIB = 1 << 20


class Process:
    """One whose size and clock the test sets; ``free`` is what a trim gives back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.size, self.free, self.trims = 100.0, 100 * MIB, 0, 0
        monkeypatch.setattr(memory, "monotonic", lambda: self.now)
        monkeypatch.setattr(memory, "resident", lambda: self.size)
        monkeypatch.setattr(memory, "trim", self.trim)

    def trim(self) -> None:
        self.trims += 1
        self.size -= self.free
        self.free = 0


def test_a_process_that_has_grown_is_trimmed_and_not_so_soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    process, trimmer = Process(monkeypatch), Trimmer()
    trimmer.look()
    process.size += GROWN
    process.now += EVERY
    trimmer.look()
    assert process.trims == 0  # grown by GROWN, and not by more
    process.size += 30 * MIB
    process.free = 40 * MIB
    trimmer.look()
    assert process.trims == 0  # not so soon
    process.now += EVERY
    trimmer.look()
    assert process.trims == 1
    for _ in range(10):
        process.now += EVERY
        trimmer.look()
    assert process.trims == 1  # it is small again


def test_where_all_is_in_use_it_is_tried_ever_more_seldom_and_what_is_freed_later_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process, trimmer = Process(monkeypatch), Trimmer()
    trimmer.look()
    process.size += 200 * MIB
    tried = []
    for _ in range(100):
        process.now += EVERY
        before = process.trims
        trimmer.look()
        if process.trims > before:
            tried.append(process.now)
    apart = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert apart[:4] == [20, 40, 40, 40]
    process.free = 190 * MIB
    process.now += SELDOM
    trimmer.look()
    assert process.size == 110 * MIB
    process.size += 50 * MIB
    process.now += EVERY  # at once again
    trimmer.look()
    assert process.trims == len(tried) + 2


def test_a_system_that_does_not_say_how_large_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    process, trimmer = Process(monkeypatch), Trimmer()
    process.size = 0
    for _ in range(5):
        process.now += EVERY
        trimmer.look()
    assert process.trims == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_becomes_small_again_when_its_vm_does(write: Callable[..., Path]) -> None:
    path = write("""
local app = greenlua.app {}
kept = {} -- behind what the hoarder takes
app:get("/hoard", function()
  local t = {}
  for i = 1, 1200000 do t[i] = { i } end
  for i = 1, 1000 do kept[i] = { i } end
  return "hoarded"
end)
app:get("/churn", function()
  for i = 1, 20000 do local _ = { i } end
  return "churned"
end)
return app""")

    def get(name: str) -> None:
        urllib.request.urlopen(f"{server.url}/{name}").close()

    with serve(path, "--set", "cpu_limit=30") as server:

        def resident() -> int:
            fields = Path(f"/proc/{server.process.pid}/statm").read_text().split()
            return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

        get("churn")
        small = resident()
        get("hoard")
        deadline = time.monotonic() + 30
        while resident() > small + 32 * MIB:
            assert time.monotonic() < deadline, (small, resident())
            get("churn")
