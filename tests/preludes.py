"""A bare Lua VM with the part of the prelude that user code's library comes from, for tests against Lua's own functions."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import greenlua
from greenlua.vm import MODULES, PRELUDE

FOLDER = Path(greenlua.__file__).parent / "lua"
LAST = "bounded"

# What C may do is what it would do in any case, so tests of the other way forbid it.
NEVER_C = (("search", "local function may_use_c(n, p)\n", "local function may_use_c(n, p)\n  do return false end\n"),)
# Slices so small that short tables have several.
SMALL = (
    ("bounded_tables", "SLICE = 10000", "SLICE = 3"),
    ("bounded_tables", "SORT_MAX = 4000", "SORT_MAX = 4"),
    ("bounded", "COPIES_MAX, BLOCK = 2^22, 1024", "COPIES_MAX, BLOCK = 4, 3"),
    ("bounded", "n <= LONG and n * #s <= LONG", "n < 0"),
)

# Gives compare(ours, source): what a chunk gives with Lua's own libraries and with ours, as text; errors without place and name.
COMPARE = rb"""
local raw = { string = {}, table = {}, os = {}, utf8 = {}, load = load, tonumber = tonumber, setmetatable = setmetatable }
for name, library in pairs(raw) do
  if type(library) == "table" then
    for key, value in pairs(_G[name] or {}) do library[key] = value end
  end
end
raw.unpack = table.unpack or unpack
local concat, gsub = table.concat, string.gsub

local function show(...)
  local out = {}
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    local text = tostring(value)
    if type(value) == "table" then
      local items = {}
      for key, item in pairs(value) do items[#items + 1] = tostring(key) .. "=" .. tostring(item) end
      raw.table.sort(items)
      text = concat(items, ",")
    end
    out[i] = type(value) .. ":" .. text
  end
  return concat(out, "|")
end

local function outcome(ok, ...)
  if ok then return show(...) end
  local message = gsub(gsub(tostring((...)), "^[^\n]-:%d+: ", ""), "'[%w_.?]*'", "'?'")
  return "error: " .. gsub(message, "got no value", "got nil")
end

return function(bounded, f, ...)
  local ours = {}
  for name, library in pairs(raw) do
    ours[name] = library
    if type(library) == "table" then
      ours[name] = {}
      for key, value in pairs(library) do ours[name][key] = value end
      for key, value in pairs(bounded[name] or {}) do ours[name][key] = value end
    elseif bounded[name] then
      ours[name] = bounded[name]
    end
  end
  return outcome(pcall(f, raw, ...)), outcome(pcall(f, ours, ...))
end
"""


def prelude(lua: str, changes: tuple[tuple[str, str, str], ...] = ()) -> tuple[Any, Any]:
    """The runtime and the prelude's table, up to ``bounded``; changes are (file, text, another text)."""
    runtime = import_module(MODULES[lua]).LuaRuntime(encoding=None, unpack_returned_tuples=True)
    if lua == "luajit":  # as for user code: compiled, table.move answers otherwise for a place that is no integer
        runtime.execute(b"jit.off() jit.flush()")
    table = runtime.execute(b"return { getmetatable = debug.getmetatable }")
    for name in PRELUDE[: PRELUDE.index(LAST) + 1]:
        if name == "limits":  # absent here; what needs it asks for it when it runs
            continue
        source = (FOLDER / f"{name}.lua").read_text()
        for file, old, new in changes:
            if file == name:
                assert source.count(old) == 1, (name, old)
                source = source.replace(old, new)
        table[name.encode()] = runtime.compile(source.encode(), name=f"=[greenlua] {name}.lua".encode())(table, None)
    return runtime, table
