-- Redis lost what it had promised (a restart, a fail-over, a FLUSHALL): the queue goes on in a new epoch.
-- Arguments: the newest epoch, sequence number and token that a server saw. Tokens go on far above what anybody can
-- have been given meanwhile. Ids of leases from before are void: leases that came back are released, uncharged, at most
-- COUNT_MAX a call. The answer is 1 while there are more, else 0.

verbs.rollback = function(at)
  local seen_epoch, seen_seq, seen_token = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local lost = epoch < seen_epoch or (epoch == seen_epoch and seq < seen_seq)
  if lost then
    epoch = math.max(epoch, seen_epoch) + 1
    token_floor = math.max(token_floor, last_token, seen_token + 2 ^ 20)
    call('HSET', META, 'epoch', number(epoch), 'token_floor', number(token_floor), 'voiding', '1')
  elseif not call('HGET', META, 'voiding') then
    return 0
  end
  -- A lease of the new epoch has a token above the floor, and stays.
  local released, kept, leases = 0, 0, nil
  repeat
    leases = call('ZRANGE', PROCESSING, kept, kept + COUNT_MAX - 1)
    for _, of in ipairs(leases) do
      if tonumber(string.match(of, '^%d+')) > token_floor then
        kept = kept + 1
      elseif released == COUNT_MAX then
        return 1
      else
        release(task_of(number_in(of)), 'rollback')
        released = released + 1
      end
    end
  until #leases < COUNT_MAX
  call('HDEL', META, 'voiding')
  return 0
end
