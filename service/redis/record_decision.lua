-- Keeps a decision record, unless its user was erased since it was made; the oldest ones make room for it.
--
-- KEYS[1]  records of the shard: hash, id -> document
-- KEYS[2]  their times: sorted set, score = milliseconds since 1970
-- KEYS[3]  the bytes that they take: number
-- KEYS[4]  ids of the records about the owner: sorted set, the same score; only if there is an owner
-- KEYS[5]  when the owner was erased: milliseconds; only if there is an owner
-- ARGV     id, milliseconds when it was made, document, milliseconds now, milliseconds to keep it,
--          most bytes of the shard, most records of one owner
--
-- Returns 1 if it is kept, else 0. All keys lie in one slot.
local id, made, document = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local ttl = tonumber(ARGV[5])

local function drop(old)
  local bytes = redis.call('HSTRLEN', KEYS[1], old)
  if bytes > 0 then
    redis.call('HDEL', KEYS[1], old)
    redis.call('DECRBY', KEYS[3], bytes)
  end
  redis.call('ZREM', KEYS[2], old)
end

if KEYS[5] then
  local erased = redis.call('GET', KEYS[5])
  if erased and tonumber(erased) >= made then
    return 0
  end
end
drop(id)
redis.call('HSET', KEYS[1], id, document)
redis.call('ZADD', KEYS[2], made, id)
local bytes = redis.call('INCRBY', KEYS[3], #document)
-- A few at a time are enough to catch up: each record drops more than one old one.
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', tonumber(ARGV[4]) - ttl, 'LIMIT', 0, 16)) do
  drop(old)
end
while tonumber(redis.call('GET', KEYS[3])) > tonumber(ARGV[6]) do
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)
  if #oldest == 0 then
    break
  end
  drop(oldest[1])
end
for at = 1, 3 do
  redis.call('PEXPIRE', KEYS[at], ttl)
end
if KEYS[4] then
  redis.call('ZADD', KEYS[4], made, id)
  local surplus = redis.call('ZCARD', KEYS[4]) - tonumber(ARGV[7])
  if surplus > 0 then
    for _, old in ipairs(redis.call('ZRANGE', KEYS[4], 0, surplus - 1)) do
      drop(old)
    end
    redis.call('ZREMRANGEBYRANK', KEYS[4], 0, surplus - 1)
  end
  redis.call('PEXPIRE', KEYS[4], ttl)
end
return 1
