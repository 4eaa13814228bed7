-- Asks a server that is not there, many times at once.
return {
  status = 200,
  handler = function(ctx)
    local tasks = {}
    for i = 1, 20 do tasks[i] = spawn(http.get, "http://127.0.0.1:1/") end
    return wait(tasks) -- each gives nil and why
  end,
}
