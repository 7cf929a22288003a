-- What has changed of the hidden items since a version, or all of them where that is no longer known.
--
-- KEYS     as in change_hidden.lua
-- ARGV     epoch and number of the version that the caller has ('' and 0 if none)
--
-- Returns the present version ('' if nothing was ever hidden), whether the items are all there are (1) or what came in
-- addition (0), the hidden items, and in the latter case the items that were shown again.
local current = redis.call('GET', KEYS[1])
if not current then
  return {'', 1, {}, {}}
end
local epoch = string.match(current, '^(%w+):')
local floor = tonumber(redis.call('GET', KEYS[4]) or '0')
if epoch ~= ARGV[1] or tonumber(ARGV[2]) < floor then
  return {current, 1, redis.call('ZRANGE', KEYS[2], 0, -1), {}}
end
local after = '(' .. ARGV[2]
return {
  current, 0, redis.call('ZRANGEBYSCORE', KEYS[2], after, '+inf'), redis.call('ZRANGEBYSCORE', KEYS[3], after, '+inf')
}
