-- Deletes what is kept of one owner, and notes in the log that nothing of theirs before this moment may be used.
--
-- KEYS[1]  history
-- KEYS[2]  memory of event ids
-- KEYS[3]  sessions that were merged into the owner: sorted set
-- KEYS[4]  ids of the decision records about the owner: sorted set
-- KEYS[5]  the shard's decision records: hash
-- KEYS[6]  times of these: sorted set
-- KEYS[7]  bytes of these: number
-- KEYS[8]  when the owner was erased: milliseconds
-- KEYS[9]  the shard's part of the event log: a stream
-- KEYS[10] recommendation ids of the owner's lists for pages: sorted set
-- ARGV     1 if events are logged, else 0; hash of the owner; milliseconds now; seconds for which the moment is kept;
--          what the key of a list for pages begins with
--
-- Returns the number of events, event ids, decision records and lists, and the position of the note in the log ('' if
-- none). All keys, those of the lists too, lie in one slot.
local events = redis.call('ZCARD', KEYS[1])
local event_ids = redis.call('ZCARD', KEYS[2])
local decisions = 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  local bytes = redis.call('HSTRLEN', KEYS[5], id)
  if bytes > 0 then
    redis.call('HDEL', KEYS[5], id)
    redis.call('ZREM', KEYS[6], id)
    redis.call('DECRBY', KEYS[7], bytes)
    decisions = decisions + 1
  end
end
local lists = 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[10], 0, -1)) do
  lists = lists + redis.call('DEL', ARGV[5] .. id)
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[10])
redis.call('SET', KEYS[8], ARGV[3], 'EX', ARGV[4])
local position = ''
if ARGV[1] == '1' or redis.call('EXISTS', KEYS[9]) == 1 then
  position = redis.call('XADD', KEYS[9], '*', 'x', ARGV[2])
end
return {events, event_ids, decisions, lists, position}
