-- Time passed: due work, at most COUNT_MAX tasks of it, and when to look again. Arguments: chance for jitter.

verbs.tick = function(at)
  local done = do_due_work(tonumber(ARGV[at + 1]))
  -- Every server looks at `told_ms`, and learns here when to look next: nobody need be told.
  told_ms = next_due()
  return done
end
