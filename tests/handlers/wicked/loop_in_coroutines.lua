-- Coroutines inside one another, each of which goes on when the one inside it has been stopped.
local function again()
  while true do pcall(coroutine.wrap(again)) end
end

return { status = 500, says = "stopped: it computed for more than", handler = again }
