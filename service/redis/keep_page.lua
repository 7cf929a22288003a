-- Keeps the list that the pages of one recommendation are cut from, unless its owner was erased meanwhile.
--
-- KEYS[1]  recommendation ids of the owner's lists: sorted set, score = milliseconds when kept
-- KEYS[2]  the list
-- KEYS[3]  when the owner was erased: milliseconds
-- ARGV     milliseconds when the request came; milliseconds now; seconds to keep; most lists of one owner;
--          recommendation id; the list; what the key of a list begins with
--
-- Returns 1 if it is kept, else 0. All keys, those of older lists too, lie in one slot.
local erased = redis.call('GET', KEYS[3])
if erased and tonumber(erased) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[2], ARGV[6], 'EX', ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[3])
local surplus = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[4])
if surplus > 0 then
  for _, old in ipairs(redis.call('ZRANGE', KEYS[1], 0, surplus - 1)) do
    redis.call('DEL', ARGV[7] .. old)
  end
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, surplus - 1)
end
return 1
