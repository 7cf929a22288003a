-- One request asks for its turn (GCRA: a bucket that holds `burst` requests and fills at an even rate).
--
-- KEYS[1]  theoretical arrival time: when the bucket will be full again, in microseconds since 1970; absent = full now
-- ARGV     microseconds per request, burst
--
-- Returns {1 if it may pass, requests left, microseconds until the next may pass, microseconds until the bucket is full}.
-- The clock is the server's, so replicas agree whatever theirs say. A refused request writes nothing.
local interval = tonumber(ARGV[1])
local burst = tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local room = burst * interval - (full_at - now)
if room < interval then
  return {0, 0, math.ceil(interval - room), math.ceil(full_at - now)}
end
full_at = full_at + interval
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1)
return {1, math.floor((room - interval) / interval), 0, math.ceil(full_at - now)}
