-- Takes out of a session what a user's history has by now, and notes in the log whose it is, in one step.
--
-- KEYS[1]  history of the session: sorted set
-- KEYS[2]  the shard's part of the event log: a stream
-- ARGV     1 if events are logged, else 0; session id, user id, then the members to take out
--
-- Returns how many members are left: events that came in the meantime. The memory of event ids stays until it expires,
-- so that a late repetition is still a duplicate.
local removed = 0
for i = 4, #ARGV do
  removed = removed + redis.call('ZREM', KEYS[1], ARGV[i])
end
if removed > 0 and ARGV[1] == '1' then
  redis.call('XADD', KEYS[2], '*', 'm', ARGV[2], 'u', ARGV[3])
end
return redis.call('ZCARD', KEYS[1])
