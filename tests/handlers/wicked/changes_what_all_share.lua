-- Puts a function of its own into a table of greenlua's, past what keeps it from that.
return {
  status = 500,
  says = "json cannot be changed",
  handler = function(ctx)
    rawset(json, "encode", function() return "survived" end)
    return json.encode { 1 }
  end,
}
