-- The hook after the handler fails, whatever the answer is.
return {
  status = 500,
  says = "after failed on purpose",
  options = { after = function(_, answer)
    answer.body = "changed"
    error("after failed on purpose")
  end },
  handler = function() return "survived" end,
}
