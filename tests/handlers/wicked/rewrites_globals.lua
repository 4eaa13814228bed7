-- Rewrites its own environment, and as much of the others' as it can.
local others = _G
local _ENV = setmetatable({}, { __index = _G })
local pcall, ipairs, setmetatable, rawset, response_of_ours = pcall, ipairs, setmetatable, rawset, response

return {
  status = 200,
  handler = function(ctx)
    table, string, json, response, error, pairs = nil, nil, nil, nil, nil, nil
    for _, name in ipairs { "json", "response", "log", "greenlua", "env" } do
      pcall(rawset, others[name], "encode", 1)
      pcall(function() others[name].encode = 1 end)
      pcall(setmetatable, others[name], {})
    end
    pcall(function() others.getmetatable("").__index = nil end)
    pcall(setmetatable, "", {})
    return response_of_ours.text("answered")
  end,
}
