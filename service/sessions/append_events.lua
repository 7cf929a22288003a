-- Adds one user's events to their history, in one step.
--
-- KEYS[1]  history: sorted set, score = timestamp, member = arrival number (16 digits) .. payload.
--          Redis orders equal scores by member, so the order is (timestamp, arrival).
-- KEYS[2]  memory of event ids and batch tokens: sorted set, score = arrival number.
-- ARGV     max_events, max_remembered, ttl_seconds, batch token, then (event id, timestamp, payload) per event
--
-- Returns how many events were new. Both keys carry one {user} tag, so they live in one slot of a cluster.
local max_events = tonumber(ARGV[1])
local max_remembered = tonumber(ARGV[2])
local ttl_seconds = tonumber(ARGV[3])

-- The memory is only ever trimmed at its oldest end, so its newest score is the last arrival number.
local newest = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local arrival = tonumber(newest[2] or '0')
local accepted = 0

for i = 5, #ARGV, 3 do
  arrival = arrival + 1
  if redis.call('ZADD', KEYS[2], 'NX', arrival, 'e' .. ARGV[i]) == 1 then
    redis.call('ZADD', KEYS[1], ARGV[i + 1], string.format('%016d', arrival) .. ARGV[i + 2])
    accepted = accepted + 1
  end
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
return accepted
