-- Adds what notices tell to one user's record (dsp.catalog.user.UserRecord), as dsp.cache.local_users does.
-- KEYS: the record. ARGV: MessagePack of {exposures, responses, exposures_max, responses_max, window_ms or -1, ttl_ms}.
-- Returns how many exposures were forgotten because one user may have no more.

local BID, EXPOSED_MS = 1, 2
local CLICKED_MS, CONVERTED_MS = 6, 7
local exposures_told, responses_told, exposures_max, responses_max, window_ms, ttl_ms =
    unpack(cmsgpack.unpack(ARGV[1]))
local stored = redis.call('GET', KEYS[1])
local record = stored and cmsgpack.unpack(stored) or {{}, {}, true}
record[4] = record[4] or {}
local exposures, responses = record[1], record[4]
local changed = false

local function exposed_ms(one)
    return one[EXPOSED_MS]
end

local function responded_ms(one)
    local clicked, converted = one[CLICKED_MS], one[CONVERTED_MS]
    if clicked == 0 or converted == 0 then
        return clicked + converted
    end
    return math.min(clicked, converted)
end

-- Takes out what is known of the same bid, and returns it.
local function take(list, bid_id)
    for place = 1, #list do
        if list[place][BID] == bid_id then
            return table.remove(list, place)
        end
    end
end

-- Puts an entry where its time belongs: it may be late.
local function put(list, entry, at_ms)
    local place = #list + 1
    while place > 1 and at_ms(list[place - 1]) > at_ms(entry) do
        place = place - 1
    end
    table.insert(list, place, entry)
end

local function earliest(one, other)
    if one == 0 or other == 0 then
        return one + other
    end
    return math.min(one, other)
end

for _, told in ipairs(exposures_told) do
    local known = take(exposures, told[BID])
    if known and known[EXPOSED_MS] <= told[EXPOSED_MS] then
        told = known
    else
        changed = true
    end
    put(exposures, told, exposed_ms)
end
for _, told in ipairs(responses_told) do
    local known = take(responses, told[BID])
    if known then
        local clicked = earliest(known[CLICKED_MS], told[CLICKED_MS])
        local converted = earliest(known[CONVERTED_MS], told[CONVERTED_MS])
        changed = changed or clicked ~= known[CLICKED_MS] or converted ~= known[CONVERTED_MS]
        told = known
        told[CLICKED_MS], told[CONVERTED_MS] = clicked, converted
    else
        changed = true
    end
    put(responses, told, responded_ms)
end
if not changed then
    return 0
end

if #exposures > 0 and window_ms >= 0 then
    local since_ms = exposures[#exposures][EXPOSED_MS] - window_ms
    while exposures[1][EXPOSED_MS] <= since_ms do
        table.remove(exposures, 1)
    end
end
local forgotten = math.max(0, #exposures - exposures_max)
for _ = 1, forgotten do
    table.remove(exposures, 1)
end
while #responses > responses_max do
    table.remove(responses, 1)
end
redis.call('SET', KEYS[1], cmsgpack.pack(record), 'PX', ttl_ms)
return forgotten
