-- Tries the ways out of the sandbox that are known; each must be missing.
return {
  status = 200,
  handler = function(ctx)
    local ways = {
      function() return os.exit(1) end,
      function() return os.execute("true") end,
      function() return os.remove("/tmp/nothing") end,
      function() return io.open("/etc/passwd") end,
      function() return require("os").exit(1) end,
      function() return require("../../secrets") end,
      function() return package.loadlib("libc.so.6", "*") end,
      function() return debug.getregistry() end,
      function() return debug.sethook() end,
      function() return python.eval("1") end,
      function() return loadfile("/etc/passwd") end,
      function() return dofile("/etc/passwd") end,
      function() return string.dump(function() end) end,
      function() return ("").dump(function() end) end,
      function() return collectgarbage("stop") end,
      function() return assert(load("\27Lua")) end,
      function() return getmetatable("").__index.rep end,
      function() return ctx.environ.x end,
      function() return faults.fail.__globals__.x end,
    }
    for i, way in ipairs(ways) do
      if pcall(way) then return 500, "way " .. i .. " is open" end
    end
    return "closed"
  end,
}
