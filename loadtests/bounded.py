"""The longest single calls of C that user code can make, and what bounded functions cost more than Lua's own.

usage: python loadtests/bounded.py [--lua 5.4]

No server. Each wicked call is made as user code would make it, with the most that it is allowed, in a VM of its own. A call that
goes its way in Lua is measured by the longest time between two runs of a count hook, for that is how late it can be stopped.
Operators are there for comparison: nothing bounds them. Common calls: nanoseconds of CPU for each, the best of several rounds.
"""

from __future__ import annotations

import argparse
from importlib import import_module, resources
from typing import Any

from greenlua.vm import MODULES, PRELUDE

WICKED = {
    "find (a-)x in 4 KB": "local s = rep('a', 4300) return S.find, s, '(a-)x'",
    "find a*a*b in 200 B": "local s = rep('a', 205) return S.find, s, 'a*a*b'",
    "find a*a*b in 2 KB, in Lua": "local s = rep('a', 2000) return S.find, s, 'a*a*b'",
    "find .-, in 1 MB, in Lua": "local s = rep('a', 2^20) return S.find, s, '.-,'",
    "find %s+$ in 64 KB, in Lua": "local s = rep(' ', 2^16) .. 'x' return S.find, s, '%s+$'",
    "find %b() in 6 KB": "local s = rep('(', 6300) return S.find, s, '%b()'",
    "find a?... in 30 B": "local s = rep('a', 30) return S.find, s, rep('a?', 18) .. 'b'",
    "find (a*)%1b in 200 B": "local s = rep('a', 200) return S.find, s, '(a*)%1b'",
    "match trim in 2.5 KB": "local s = rep(' ', 1200) .. 'x' .. rep(' ', 1300) .. '\\0' return S.match, s, '^%s*(.-)%s*$'",
    "gsub [^b]+ in 14 MB": "local s = rep('a', 14000000) return S.gsub, s, '[^b]+', 'x'",
    "gsub each byte of 8 MB": "local s = rep('a', 8000000) return S.gsub, s, 'a', 'b'",
    "find a set of 900 in 100 KB": "local s = rep('a', 100000) return S.find, s, '[' .. rep('b', 900) .. ']'",
    "find plain ab in 30 MB": "local s = rep('a', 30000000) return S.find, s, 'ab', 1, true",
    "find plain 300 KB in 1 MB, in Lua": "local s, t = rep('a', 2^20), rep('a', 300000) .. 'b' return S.find, s, t, 1, true",
    "rep 64 MiB of one byte": "return S.rep, 'a', 2^26",
    "rep of nothing": "return S.rep, '', 2^31 - 1",
    "lower 64 MiB": "local s = rep('a', 2^26) return S.lower, s",
    "reverse 64 MiB": "local s = rep('a', 2^26) return S.reverse, s",
    "format %q of 2 MiB": "local s = rep('\\0', 2^21) return S.format, '%q', s",
    "format 1,900 of %99.99f": "local t = {} for i = 1, 1900 do t[i] = 1e308 end return S.format, rep('%99.99f', 1900), unpack(t)",
    "os.date 2,000 of %c": "return B.os.date, rep('%c', 2000)",
    "tonumber 64 MiB of digits": "local s = rep('1', 2^26) return B.tonumber, s",
    "utf8.len 64 MiB": "local s = rep('a', 2^26) return B.utf8 and B.utf8.len or type, s",
    "concat 2 million": "local t = {} for i = 1, 2e6 do t[i] = 'ab' end return T.concat, t",
    "insert before 4 million": "local t = {} for i = 1, 4e6 do t[i] = i end return T.insert, t, 1, 1",
    "move 2^31, in Lua": "return T.move or type, {}, 1, 2^31 - 2, 1",
    "sort 4,000": "local t = {} for i = 1, 4000 do t[i] = i % 3 == 0 and 0 / 0 or -i end return T.sort, t",
    "sort 100,000, in Lua": "local t = {} for i = 1, 1e5 do t[i] = -i * 7919 % 100003 end return T.sort, t",
    "load 1 MiB of data": "return B.load, 'return {' .. rep('a=1,', 260000) .. '}'",
    "load 9,900 of and": "return B.load, 'return ' .. rep('a and ', 9900) .. 'a'",
    "load 9,900 of break": "return B.load, 'while true do ' .. rep('break ', 9900) .. ' end'",
    "load 9,900 of elseif": "return B.load, 'if a then ' .. rep('elseif a then ', 9900) .. ' end'",
    "load 12,000 locals": "local n = {} for i = 1, 199 do n[i] = 'a' .. i end"
    " local l = 'local ' .. concat(n, ',') .. ' return function() '"
    " return B.load, rep(l, 60) .. rep('x() ', 20000) .. rep(' end', 60)",
    "operator .. on 64 MiB": "local s = rep('a', 2^26) return function() return #(s .. 'b') end",
    "operator == on 64 MiB": "local s, t = rep('a', 2^26), rep('a', 2^26) return function() return s == t end",
    "operator < on 64 MiB": "local s, t = rep('a', 2^26), rep('a', 2^26) return function() return s < t end",
    "operator + on 64 MiB": "local s = rep('1', 2^26) return function() return s + 1 end",
    "next after 4 million keys": "local t = {} for i = 1, 4e6 do t['k' .. i] = i end"
    " for k in pairs(t) do t[k] = nil end return next, t",
}
MEASURE = rb"""
local B, source, steps = ...
if jit then jit.off() end
local rep, concat, unpack, clock = string.rep, table.concat, table.unpack or unpack, os.clock
local S, T = B.string, B.table
local names = "local B, S, T, rep, concat, unpack = ... "
local function measure(f, ...)
  local longest, hooks, last = 0, 0, clock()
  debug.sethook(function()
    local now = clock()
    hooks = hooks + 1
    if now - last > longest then longest = now - last end
    last = now
    if hooks >= steps then debug.sethook() error("stopped", 0) end
  end, "", 1000)
  local ok, why = pcall(f, ...)
  debug.sethook()
  return math.max(longest, clock() - last), ok and "" or tostring(why)
end
return measure(assert((loadstring or load)(names .. source))(B, S, T, rep, concat, unpack))
"""

COMMON = {
    "find": 'L.string.find(s, "key=(%w+)")',
    "find plain": 'L.string.find(s, "key", 1, true)',
    "match": 'L.string.match(s, "^(%w+)%s")',
    "gsub": 'L.string.gsub(s, "%s+", "_")',
    "gmatch": 'for _ in L.string.gmatch(s, "%w+") do end',
    "sub": "L.string.sub(s, 3, 3)",
    "byte": "L.string.byte(s, 3)",
    "lower": "L.string.lower(s)",
    "rep": 'L.string.rep("ab", 5)',
    "format": 'L.string.format("%s %d", s, 5)',
    "tonumber": 'L.tonumber("12")',
    "concat of 10": 'L.table.concat(t, ",")',
    "insert and remove": "L.table.insert(t, 1) L.table.remove(t)",
    "sort 10": "L.table.sort(t)",
    "unpack 10": "L.unpack(t)",
}
COMPARE = rb"""
local B, source = ...
local raw = { string = {}, table = {}, tonumber = tonumber, unpack = table.unpack or unpack }
for k, v in pairs(string) do raw.string[k] = v end
for k, v in pairs(table) do raw.table[k] = v end
local chunk = assert((loadstring or load)(
  "local L, n = ... local s, t = 'hello world, key=value; x', { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }"
    .. " for _ = 1, n do " .. source .. " end"))
local n, best = 50000, { 1e9, 1e9 }
for _ = 1, 9 do
  for i, L in ipairs { raw, B } do
    local began = os.clock()
    chunk(L, n)
    best[i] = math.min(best[i], os.clock() - began)
  end
end
return best[1] / n * 1e9, best[2] / n * 1e9
"""


def machine(lua: str) -> tuple[Any, Any]:
    runtime = import_module(MODULES[lua]).LuaRuntime(encoding=None, unpack_returned_tuples=True)
    prelude = runtime.execute(b"return { getmetatable = debug.getmetatable }")
    for name in PRELUDE[: PRELUDE.index("bounded") + 1]:
        source = resources.files("greenlua").joinpath("lua", f"{name}.lua").read_bytes()
        prelude[name.encode()] = runtime.compile(source, name=f"=[greenlua] {name}.lua".encode())(prelude, None)
    return runtime, prelude[b"bounded"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lua", default="5.4", choices=list(MODULES))
    lua = parser.parse_args().lua
    print(f"wicked calls, Lua {lua}: milliseconds that no hook sees")
    times: dict[str, float] = {}
    for name, code in WICKED.items():
        runtime, bounded = machine(lua)
        seconds, end = runtime.compile(MEASURE)(bounded, code.encode(), 300)
        times[name] = seconds
        print(f"  {name:36s} {seconds * 1000:7.1f}   {end.decode()[:60]}")
    longest = max((name for name in times if not name.startswith("operator")), key=lambda name: times[name])
    print(f"longest: {longest}, {times[longest] * 1000:.0f} ms")
    print("common calls: Lua's own, bounded, difference in ns")
    runtime, bounded = machine(lua)
    for name, code in COMMON.items():
        own, ours = runtime.compile(COMPARE)(bounded, code.encode())
        print(f"  {name:36s} {own:7.0f} {ours:7.0f} {ours - own:+7.0f}")


if __name__ == "__main__":
    main()
