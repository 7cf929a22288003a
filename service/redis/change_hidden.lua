-- Hides an item, or shows it again.
--
-- KEYS[1]  version: "<epoch>:<number>"; the number rises with every change and is milliseconds since 1970, about
-- KEYS[2]  hidden items: sorted set, score = version since when
-- KEYS[3]  items that were shown again: sorted set, score = version since when; only the newest are kept
-- KEYS[4]  floor: changes up to this version are no longer all kept in KEYS[3]
-- ARGV     milliseconds now; an epoch, if there is none yet; hide or show; most hidden items; most kept in KEYS[3]; item
--
-- Returns whether something changed (-1: no more may be hidden) and since when the item is hidden (0: it is not).
local current = redis.call('GET', KEYS[1])
local epoch, last = ARGV[2], 0
if current then
  local number
  epoch, number = string.match(current, '^(%w+):(%d+)$')
  last = tonumber(number)
end
local since = redis.call('ZSCORE', KEYS[2], ARGV[6])
if ARGV[3] == 'hide' then
  if since then
    return {0, string.format('%.0f', tonumber(since))}
  end
  if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[4]) then
    return {-1, '0'}
  end
elseif not since then
  return {0, '0'}
end

local version = string.format('%.0f', math.max(last + 1, tonumber(ARGV[1])))
redis.call('SET', KEYS[1], epoch .. ':' .. version)
if ARGV[3] == 'hide' then
  redis.call('ZADD', KEYS[2], version, ARGV[6])
  redis.call('ZREM', KEYS[3], ARGV[6])
  return {1, version}
end
redis.call('ZREM', KEYS[2], ARGV[6])
redis.call('ZADD', KEYS[3], version, ARGV[6])
local surplus = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[5])
if surplus > 0 then
  local dropped = redis.call('ZRANGE', KEYS[3], surplus - 1, surplus - 1, 'WITHSCORES')
  redis.call('SET', KEYS[4], string.format('%.0f', tonumber(dropped[2])))
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, surplus - 1)
end
return {1, '0'}
