-- Removes the events of one owner from a piece of the event log.
--
-- KEYS[1]  the shard's part of the event log: a stream
-- ARGV     field and id of the owner, first and last position, how many entries to look at
--
-- Returns how many entries were removed, and the position after which to go on ('' at the end).
local entries = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[4], 'COUNT', ARGV[5])
local removed = 0
for _, entry in ipairs(entries) do
  local fields = entry[2]
  if fields[1] == ARGV[1] and fields[2] == ARGV[2] then
    removed = removed + redis.call('XDEL', KEYS[1], entry[1])
  end
end
if #entries < tonumber(ARGV[5]) then
  return {removed, ''}
end
return {removed, entries[#entries][1]}
