-- Runs a batch of verbs on one queue, in order, and makes one reply of theirs. Last part of the script.
--
-- The reply is {1, epoch, first sequence number, last one, last token, Redis's clock, told_ms, results}; a result is
-- {1, value, events in MessagePack, or ""} or {0, code, text}. {2}: Redis has lost events, and nothing was done.

local READS = {stats = true, policy = true, show = true, peek = true, info = true}

-- What would stop the batch half-way is found here, before its first write.
local function refusal()
  for i, key in ipairs(KEYS) do
    local found = call('TYPE', key).ok
    if found ~= 'none' and found ~= TYPES[i] then
      return 'the key ' .. key .. ' holds a ' .. found .. ', not a ' .. TYPES[i] ..
        ': somebody else wrote it. Nothing happened; remove that key'
    end
  end
  -- Changes nothing, as there is no such member, but Redis refuses it when it has no memory for new keys.
  local probe = redis.pcall('ZADD', READY, 'XX', 0, '-')
  if type(probe) == 'table' and probe.err and string.find(probe.err, 'OOM', 1, true) then
    full = 'Redis is full, it uses all of its maxmemory: nothing happened, try again when workers have caught up'
  end
  -- Changes nothing, but fails when Redis takes no writes at all; and lets what follows through a full memory.
  call('HDEL', META, '')
end

-- As many servers as there are new ready tasks are told, the one that has waited longest first.
local function wake()
  local left = made_ready
  while left > 0 do
    local first = call('ZPOPMIN', WAITING)
    if not first[1] then break end
    if tonumber(first[2]) >= clock_ms then
      call('PUBLISH', PREFIX .. ':wake:' .. first[1], QUEUE)
      left = left - 1
    end
  end
end

if epoch < SEEN_EPOCH or (epoch == SEEN_EPOCH and seq < SEEN_SEQ) then return {2} end

local writes, at = false, FIRST
while at < #ARGV do
  writes = writes or not READS[ARGV[at + 1]]
  at = at + 2 + ARGV[at + 2]
end
if writes then
  local text = refusal()
  if text then return {0, 'BACKEND', text} end
end

local results = {}
at = FIRST
while at < #ARGV do
  local words = tonumber(ARGV[at + 2])
  events = {}
  local value, code, text = verbs[ARGV[at + 1]](at + 2, words)
  if code then
    results[#results + 1] = {0, code, text}
  else
    results[#results + 1] = {1, value, #events > 0 and cmsgpack.pack(events) or ''}
  end
  at = at + 2 + words
end

if seq ~= first_seq then
  call('HSET', META, 'seq', seq, 'at_ms', at_ms, 'born_ms', born_ms, 'paused', paused and 1 or 0,
    'next_number', next_number, 'last_token', last_token, 'told_ms', told_ms)
  for what, by in pairs(totals) do call('HINCRBY', META, what, by) end
  if made_ready > 0 and not paused then wake() end
  -- Last, and never an error: nothing depends on it, and what is written must be told as such. History gives way to tasks:
  -- what makes room after a task was refused leaves the newest tenth of it.
  if full or WAS_FULL then
    redis.pcall('XTRIM', EVENTS, 'MAXLEN', math.ceil(call('XLEN', EVENTS) / 10))
  else
    redis.pcall('XTRIM', EVENTS, 'MAXLEN', '~', RETAIN)
  end
elseif told_ms ~= first_told_ms then
  call('HSET', META, 'told_ms', told_ms)
end
return {1, epoch, first_seq + 1, seq, last_token, clock_ms, told_ms, results}
