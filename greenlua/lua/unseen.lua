-- Failures of tasks that nobody has waited for yet: kept by the main task of their request, and reported when it ends. Uses failures.

local prelude = ...

local next = next
local caught_of, is_caught = prelude.failures.caught_of, prelude.failures.is_caught

local KEPT_MAX = 100 -- of one request; later ones are reported at once, so that a long request does not grow

local function report_one(task, report)
  local caught = task.caught
  if not is_caught(caught) then caught = caught_of("a response was thrown in a task that nobody waited for", "") end
  report(task.ctx, caught)
end

local function keep(task, report)
  local main = task.main
  main.failed, main.failed_count = main.failed or {}, main.failed_count or 0
  if main.failed_count >= KEPT_MAX then return report_one(task, report) end
  main.failed[task], main.failed_count = true, main.failed_count + 1
end

-- Somebody has waited for it.
local function forget(task)
  local main = task.main
  if main.failed and main.failed[task] then
    main.failed[task], main.failed_count = nil, main.failed_count - 1
  end
end

local function report_all(main, report)
  local failed = main.failed
  main.failed = nil
  for task in next, failed do report_one(task, report) end
end

return { forget = forget, keep = keep, report_all = report_all }
