-- What all verbs share: the keys, the clock, the events, the effect of each move. First part of the one script that Redis
-- is given: then come the verbs, one file each, and last `dispatch`, which runs a batch of them on one queue.
--
-- The rules are those of docs/semantics.md and of moxy/core (decider and reducer), told a second time; that the two
-- tell the same is what the model-based tests and `moxy verify redis://...` check. docs/redis.md describes the keys.
--
-- Order of writes. A script that fails is not undone by Redis. So everything that can fail is tried first: arguments
-- come checked, and `dispatch` looks at the type of every key, at whether Redis takes writes at all, and at whether its
-- memory is full. A full memory refuses new tasks only: after a write that needs no memory Redis lets the rest of a
-- script through, so leases, acks and due work go on, and make room.

local META, POLICY, TASKS, PAYLOADS, IDS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local READY, SCHEDULED, PROCESSING, DEAD, EXPIRING = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local REMEMBERED, BOUND, WAITING, EVENTS = KEYS[11], KEYS[12], KEYS[13], KEYS[14]

-- ARGV: queue, prefix of channels, now ("": Redis's own clock), events to retain, policy of a new queue ("": the
-- usual one), the newest epoch, sequence number and token that the asking server has seen, 1 when it has found Redis too
-- full for a task of this queue since; then for each verb its name, how many arguments it has, and these.
local QUEUE, PREFIX, RETAIN, BORN = ARGV[1], ARGV[2], ARGV[4], ARGV[5]
local SEEN_EPOCH, SEEN_SEQ, SEEN_TOKEN = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local WAS_FULL = ARGV[9] == '1'
local FIRST = 9

local COUNT_MAX = 1000
local DURATION_MS_MAX = 30 * 24 * 60 * 60 * 1000
local PRIORITY_MAX = 9
local PLACE_BITS = 1e15 -- a score of :ready is (9 - priority) * 1e15 + place; exact, since it stays below 2^53
local POLICY_FIELDS = {'max_attempts', 'backoff_ms', 'backoff_max_ms', 'lease_ms', 'max_hold_ms', 'max_ready', 'ttl_ms'}
local POLICY_USUAL = {25, 0, 0, 30000, 0, 0, 0}
local TYPES = {
  'hash', 'hash', 'hash', 'hash', 'hash', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'zset', 'stream'
}

local TOTALS = {
  'enqueued', 'matured', 'leased', 'extended', 'acked', 'expired', 'failed', 'released', 'requeued', 'dead_lettered',
  'redriven', 'deleted'
}

local call = redis.call
local verbs = {}

-- The queue as it stands

local meta = call('HMGET', META, 'seq', 'at_ms', 'born_ms', 'paused', 'next_number', 'last_token', 'token_floor',
  'told_ms', 'epoch')
local seq, at_ms, born_ms = tonumber(meta[1]) or 0, tonumber(meta[2]) or 0, tonumber(meta[3]) or 0
local paused, next_number = meta[4] == '1', tonumber(meta[5]) or 1
local last_token, token_floor = tonumber(meta[6]) or 0, tonumber(meta[7]) or 0
local told_ms = tonumber(meta[8]) or 0 -- when all servers look at this queue next, at the latest; 0: nothing is due
local epoch = tonumber(meta[9]) or 0 -- grows when Redis is found to have lost something
local first_seq, first_told_ms = seq, told_ms

local clock_ms
if ARGV[3] == '' then
  local time = call('TIME')
  clock_ms = time[1] * 1000 + math.floor(time[2] / 1000)
else
  clock_ms = tonumber(ARGV[3])
end
local now_ms = math.max(clock_ms, at_ms) -- never below the last event's (I15)

local events, totals, made_ready = {}, {}, 0 -- events: of the verb at hand
local full -- a sentence when Redis has no memory for new tasks
local settled = false -- whether all that is due at this moment has been done

local WHOLE = string.format('%d', 2 ^ 40) == '1099511627776' and '%d' or '%.0f' -- '%d' is quicker, but not C's everywhere

-- A whole number as text. What Redis is given as a number it writes with 17 digits first, which takes longer than this.
local function number(value)
  return string.format(WHOLE, value)
end
local NOW = number(now_ms)

local policy_kept
local function policy()
  if policy_kept then return policy_kept end
  policy_kept = {}
  local usual = POLICY_USUAL
  if seq == 0 and BORN ~= '' then usual = cjson.decode(BORN) end
  local stored = call('HMGET', POLICY, unpack(POLICY_FIELDS))
  for i, field in ipairs(POLICY_FIELDS) do
    policy_kept[field] = tonumber(stored[i]) or usual[i]
  end
  return policy_kept
end

-- Events

-- One more event: in the stream under its sequence number, by names, for people; and in the reply by its values alone.
-- Fields come as name, value, ... in the order in which `moxy.core.events` has them, but the payload last: the reply goes
-- without it, since the asker has it.
local function emit(kind, ...)
  call('XADD', EVENTS, number(seq + 1) .. '-0', 'type', kind, 'at_ms', NOW, ...)
  seq = seq + 1
  at_ms = now_ms
  if born_ms == 0 then born_ms = now_ms end
  local fields, event = {...}, {kind, QUEUE, seq, now_ms}
  local last = kind == 'Enqueued' and #fields - 2 or #fields
  for i = 2, last, 2 do event[#event + 1] = fields[i] end
  events[#events + 1] = event
end

local function count(what, by)
  totals[what] = (totals[what] or 0) + (by or 1)
end

local function emit_configured(fields)
  local pairs_of = {}
  for _, field in ipairs(POLICY_FIELDS) do
    pairs_of[#pairs_of + 1] = field
    pairs_of[#pairs_of + 1] = fields[field]
  end
  emit('QueueConfigured', unpack(pairs_of))
  events[#events] = {'QueueConfigured', QUEUE, seq, now_ms, fields}
  call('HSET', POLICY, unpack(pairs_of))
  policy_kept = fields
end

-- Before the first event of a queue: write down the policy that it is born with, unless it is the usual.
local function be_born()
  if seq == 0 and BORN ~= '' then emit_configured(policy()) end
end

-- Tasks: a JSON record each, in which what is absent is 0, "" or false

local function task_of(n)
  local record = call('HGET', TASKS, n)
  if not record then return nil end
  local t = cjson.decode(record)
  t.n = n
  return t
end

local function keep(t)
  local n = t.n
  t.n = nil
  call('HSET', TASKS, n, cjson.encode(t))
  t.n = n
end

-- The number of the task that has that id, or nil. Ids that Moxy made begin with the number, and have no entry.
local function number_of(id)
  local n = call('HGET', IDS, id)
  if n then return n end
  n = string.match(id, '^([1-9]%d*)%-%x+$')
  if n and #n < 16 then
    local record = call('HGET', TASKS, n)
    if record and cjson.decode(record).id == id then return n end
  end
  return nil
end

local function remembered(id)
  local until_ms = call('ZSCORE', REMEMBERED, id)
  return until_ms and now_ms < tonumber(until_ms)
end

local function knows(id)
  return number_of(id) or remembered(id)
end

-- Whether any id is kept here that a client may have chosen. Most queues have none, and are asked once in a batch instead
-- of once a task. (An id that Moxy made is remembered without a note here: no later task can get it.)
local ids_kept
local function keeps_ids()
  if ids_kept == nil then ids_kept = call('HLEN', IDS) > 0 or call('ZCARD', REMEMBERED) > 0 end
  return ids_kept
end

local function keep_id(t)
  call('HSET', IDS, t.id, t.n)
  call('ZREM', REMEMBERED, t.id)
  ids_kept = true
end

-- Members sort as numbers among equal scores, because the first is padded.
local RANKED = string.gsub(WHOLE, '%%', '%%016') .. ':%s'
local function member(rank, n)
  return string.format(RANKED, rank, n)
end

local function number_in(of)
  return string.match(of, ':(%d+)$')
end

-- All servers look at the queue no later than that.
local function due_by(ms)
  if told_ms == 0 or ms < told_ms then
    told_ms = ms
    call('PUBLISH', PREFIX .. ':due', number(math.max(ms - clock_ms, 0)) .. ' ' .. QUEUE)
  end
end

local function watch_ttl(t)
  if (t.expires_ms or 0) > 0 then
    call('ZADD', EXPIRING, t.expires_ms, member(t.place, t.n))
    due_by(t.expires_ms)
  end
end

-- Stand where its state says. `due_ms` 0: ready.
local function wait_in_line(t, due_ms)
  if due_ms > 0 then
    t.state, t.due_ms = 'scheduled', due_ms
    call('ZADD', SCHEDULED, due_ms, member(t.place, t.n))
    due_by(due_ms)
  else
    t.state, t.due_ms = 'ready', nil
    call('ZADD', READY, number((PRIORITY_MAX - (t.priority or 0)) * PLACE_BITS + t.place), t.n)
    made_ready = made_ready + 1
  end
  watch_ttl(t)
end

-- No longer stand there.
local function leave(t)
  if t.state == 'ready' then
    call('ZREM', READY, t.n)
  elseif t.state == 'scheduled' then
    call('ZREM', SCHEDULED, member(t.place, t.n))
  elseif t.state == 'dead' then
    call('ZREM', DEAD, member(t.death_seq, t.n))
  elseif t.state == 'processing' then
    call('ZREM', PROCESSING, member(t.token, t.n))
    if t.bound then call('ZREM', BOUND, t.bound .. ':' .. t.n) end
    t.lease_id, t.deadline_ms, t.leased_ms, t.worker, t.bound = nil, nil, nil, nil, nil
  end
  if (t.expires_ms or 0) > 0 and (t.state == 'ready' or t.state == 'scheduled') then
    call('ZREM', EXPIRING, member(t.place, t.n))
  end
end

-- Gone for good; only its id may be remembered, for its dedup window.
local function forget(t)
  leave(t)
  call('HDEL', TASKS, t.n)
  call('HDEL', PAYLOADS, t.n)
  if t.named then call('HDEL', IDS, t.id) end
  if (t.dedup_ms or 0) > 0 then call('ZADD', REMEMBERED, number(now_ms + t.dedup_ms), t.id) end
end

local function bury(t, cause, reason)
  emit('DeadLettered', 'number', t.n, 'task_id', t.id, 'cause', cause, 'reason', reason, 'attempts', t.attempts or 0)
  leave(t)
  t.state, t.due_ms = 'dead', nil
  t.cause, t.reason, t.died_ms, t.death_seq = cause, reason, now_ms, seq
  call('ZADD', DEAD, now_ms, member(seq, t.n))
  keep(t)
  count('dead_lettered')
end

-- Coming back

local function attempts_used_up(t)
  local most = t.max_attempts or policy().max_attempts
  return most > 0 and (t.attempts or 0) >= most
end

local function ttl_ran_out(t)
  return (t.expires_ms or 0) > 0 and t.expires_ms <= now_ms
end

-- Exponential, capped, with a jitter that takes off up to half. The draws of one script differ, those of chance 0 do not.
local draws = 0
local function backoff_ms(attempts, chance)
  local p = policy()
  if p.backoff_ms == 0 then return 0 end
  local cap_ms = p.backoff_max_ms > 0 and p.backoff_max_ms or DURATION_MS_MAX
  local full_ms = math.min(p.backoff_ms * 2 ^ math.min(attempts - 1, 32), cap_ms)
  draws = draws + 1
  return full_ms - (chance * (2 * draws - 1)) % 2 ^ 42 % (math.floor(full_ms / 2) + 1)
end

-- What follows Expired and Failed. `delay_ms` nil: the backoff decides.
local function requeue(t, delay_ms, chance)
  if attempts_used_up(t) then
    bury(t, 'attempts', t.nack_reason or (t.ended == 'failed' and 'nack' or 'lease expired'))
  elseif ttl_ran_out(t) then
    bury(t, 'ttl', 'ttl')
  else
    delay_ms = delay_ms or backoff_ms(t.attempts, chance)
    local due_ms = delay_ms > 0 and now_ms + delay_ms or 0
    emit('Requeued', 'number', t.n, 'task_id', t.id, 'due_ms', due_ms)
    wait_in_line(t, due_ms)
    keep(t)
    count('requeued')
  end
end

local function release(t, cause)
  local charged = cause == 'disconnect'
  emit('Released', 'number', t.n, 'task_id', t.id, 'lease_id', t.lease_id, 'cause', cause,
    'attempts', (t.attempts or 0) + (charged and 1 or 0))
  leave(t)
  t.state, t.nack_reason = '', nil
  if charged then
    t.attempts, t.disconnects, t.ended = (t.attempts or 0) + 1, (t.disconnects or 0) + 1, 'disconnected'
  else
    t.releases, t.ended = (t.releases or 0) + 1, 'released'
  end
  count('released')
  if charged and attempts_used_up(t) then
    bury(t, 'attempts', 'disconnect')
  elseif ttl_ran_out(t) then
    bury(t, 'ttl', 'ttl')
  else
    wait_in_line(t, 0)
    keep(t)
  end
end

-- Time

local function first_due(key)
  local first = call('ZRANGEBYSCORE', key, '-inf', now_ms, 'LIMIT', 0, 1)[1]
  return first and number_in(first)
end

-- Leases whose deadline came, then TTLs that ran out, then tasks that mature: at most COUNT_MAX tasks. What a verb adds is
-- never due in the same millisecond, so once is enough for a batch.
local function do_due_work(chance)
  local done = 0
  while done < COUNT_MAX and not settled do
    local n = first_due(PROCESSING)
    if n then
      local t = task_of(n)
      local attempts = (t.attempts or 0) + 1
      emit('Expired', 'number', n, 'task_id', t.id, 'lease_id', t.lease_id, 'attempts', attempts)
      leave(t)
      t.state, t.attempts, t.expiries = '', attempts, (t.expiries or 0) + 1
      t.ended, t.nack_reason = 'expired', nil
      count('expired')
      requeue(t, nil, chance)
    else
      n = first_due(EXPIRING)
      if n then
        bury(task_of(n), 'ttl', 'ttl')
      else
        n = first_due(SCHEDULED)
        if n then
          local t = task_of(n)
          emit('Matured', 'number', n, 'task_id', t.id)
          leave(t)
          wait_in_line(t, 0)
          keep(t)
          count('matured')
        else
          settled = true
        end
      end
    end
    if not settled then done = done + 1 end
  end
  return done
end

-- When time next causes something here; 0: nothing waits for it.
local function next_due()
  local soonest = 0
  for _, key in ipairs({PROCESSING, EXPIRING, SCHEDULED}) do
    local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    if first and (soonest == 0 or tonumber(first) < soonest) then soonest = tonumber(first) end
  end
  return soonest
end

-- The task under this very lease, or nil and the refusal that says what became of it (I4).
local function held(n, token, lease_id)
  local t = task_of(n)
  if t and t.lease_id == lease_id then return t end
  token = tonumber(token)
  local text
  if token > last_token or tonumber(n) >= next_number then
    text = 'that lease was never seen here: it is not of this queue, or from before a data loss'
  elseif not t then
    text = 'that lease is void: its task is completed or deleted'
  elseif token > (t.token or 0) or (token == t.token and t.lease_id) then
    text = 'that lease was never seen here: it is not a lease of that task'
  elseif token < t.token then
    text = 'that lease is void: the task has been leased again since'
  else
    local how = {expired = 'it expired', failed = 'it was given up by a NACK', disconnected = 'its connection closed'}
    text = 'that lease is void: ' .. (how[t.ended] or 'it was released') .. ', and the task is ' .. t.state
  end
  return nil, 'NOLEASE', text
end
