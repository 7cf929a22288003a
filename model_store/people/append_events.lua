-- Adds the events of one owner (a user or a session) to their history and to the event log, in one step.
--
-- KEYS[1]  history: sorted set, score = timestamp, member = arrival number (16 digits) .. payload.
--          Redis orders equal scores by member, so the order is (timestamp, arrival).
-- KEYS[2]  memory of event ids and batch tokens: sorted set, score = arrival number.
-- KEYS[3]  the shard's part of the event log: a stream.
-- ARGV     max_events, max_remembered, ttl_seconds, batch token, most entries of the log (0: nothing is logged),
--          field and id of the owner in the log, then (event id, timestamp, payload) per event
--
-- Returns the length of the log, then per event 1 if it was new and 0 if not; or -1 alone if the log is full, and then
-- nothing was changed. All keys carry one {shard} tag, so they live in one slot of a cluster.
local max_events = tonumber(ARGV[1])
local max_remembered = tonumber(ARGV[2])
local ttl_seconds = tonumber(ARGV[3])
local max_logged = tonumber(ARGV[5])
local first = 8

-- Refuse rather than forget: what waits for export is never dropped. A batch that brings nothing new may pass.
if max_logged > 0 and redis.call('XLEN', KEYS[3]) >= max_logged then
  for i = first, #ARGV, 3 do
    if not redis.call('ZSCORE', KEYS[2], 'e' .. ARGV[i]) then
      return {-1}
    end
  end
end

-- The memory is only ever trimmed at its oldest end, so its newest score is the last arrival number.
local newest = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local arrival = tonumber(newest[2] or '0')
local answer = {0}

for i = first, #ARGV, 3 do
  arrival = arrival + 1
  local is_new = redis.call('ZADD', KEYS[2], 'NX', arrival, 'e' .. ARGV[i])
  if is_new == 1 then
    redis.call('ZADD', KEYS[1], ARGV[i + 1], string.format('%016d', arrival) .. ARGV[i + 2])
    if max_logged > 0 then
      redis.call('XADD', KEYS[3], '*', ARGV[6], ARGV[7], 't', ARGV[i + 1], 'p', ARGV[i + 2])
    end
  end
  answer[#answer + 1] = is_new
end
redis.call('ZADD', KEYS[2], arrival + 1, 't' .. ARGV[4])

-- In steps of a tenth: were the oldest event dropped with every new one, every history at the limit would begin
-- elsewhere each time, and nothing that a model kept of its beginning could be used again. Whole steps, so that
-- how many are left does not depend on the batches in which events came.
local step = math.max(1, math.floor(max_events / 10))
local surplus = redis.call('ZCARD', KEYS[1]) - max_events
if surplus >= step then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, surplus - surplus % step - 1)
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -max_remembered - 1)
redis.call('EXPIRE', KEYS[1], ttl_seconds)
redis.call('EXPIRE', KEYS[2], ttl_seconds)
answer[1] = redis.call('XLEN', KEYS[3])
return answer
