-- Cancels its tasks in the wrong order and twice, while they cancel one another.
return {
  status = 200,
  handler = function(ctx)
    local tasks = {}
    for i = 1, 100 do
      tasks[i] = spawn(function()
        sleep(0.001)
        for j = 100, 1, -1 do tasks[j]:cancel() end
        sleep(60)
      end)
    end
    local ended = 0
    for i = 1, 100 do ended = ended + (pcall(wait, tasks[i]) and 0 or 1) end
    return { ended = ended }
  end,
}
