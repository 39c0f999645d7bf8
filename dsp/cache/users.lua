-- Adds what notices tell to one user's record (dsp.cache.user_codec), as dsp.cache.local_users does.
-- KEYS: the record. ARGV: rows of exposures (dsp.catalog.exposures); MessagePack of {responses, exposures_max,
-- responses_max, window_ms or -1, ttl_ms}.
-- Returns how many exposures were forgotten because one user may have no more.

local EXPOSURES, COMPLETE, RESPONSES, ROWS = 1, 3, 4, 5
local BID, CLICKED_MS, CONVERTED_MS = 1, 6, 7
local ROW_BYTES, BID_BYTES = 28, 8
local rows_told = ARGV[1]
local responses_told, exposures_max, responses_max, window_ms, ttl_ms = unpack(cmsgpack.unpack(ARGV[2]))
local stored = redis.call('GET', KEYS[1])
local record = stored and cmsgpack.unpack(stored) or {{}, {}, false, {}, ''}
local responses, rows = record[RESPONSES] or {}, record[ROWS]
if rows == nil and record[COMPLETE] then -- of before
    rows = ''
end
if type(rows) ~= 'string' or #rows % ROW_BYTES > 0 then
    return redis.error_reply('FORM the record is of a later form')
end

-- Rows. A place is that of a row's first byte, from 1.

local function exposed_ms(list, place)
    return (struct.unpack('<i8', list, place + BID_BYTES))
end

-- Returns rows with one among them, at the earliest time given for its bid.
local function count(list, row)
    local place, at_ms = 1, exposed_ms(row, 1)
    local known = string.find(list, string.sub(row, 1, BID_BYTES), 1, true)
    while known and (known - 1) % ROW_BYTES > 0 do -- the same bytes, but of another field or two
        known = string.find(list, string.sub(row, 1, BID_BYTES), known + 1, true)
    end
    if known then
        if exposed_ms(list, known) <= at_ms then
            return list
        end
        list = string.sub(list, 1, known - 1) .. string.sub(list, known + ROW_BYTES)
    end
    place = #list + 1
    while place > 1 and exposed_ms(list, place - ROW_BYTES) > at_ms do -- it may be late
        place = place - ROW_BYTES
    end
    return string.sub(list, 1, place - 1) .. row .. string.sub(list, place)
end

-- Returns the row of an exposure as processes of before kept it: {bid, at_ms, advertiser, campaign, line item}.
local function row_of(exposure)
    local bid = string.gsub(string.sub(redis.sha1hex(exposure[1]), 1, 2 * BID_BYTES), '..', function(digits)
        return string.char(tonumber(digits, 16))
    end)
    return bid .. struct.pack('<i8I4I4I4', exposure[2], exposure[3], exposure[4], exposure[5])
end

-- Responses.

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

-- Puts a response where its time belongs: it may be late.
local function put(list, one)
    local place = #list + 1
    while place > 1 and responded_ms(list[place - 1]) > responded_ms(one) do
        place = place - 1
    end
    table.insert(list, place, one)
end

local function earliest(one, other)
    if one == 0 or other == 0 then
        return one + other
    end
    return math.min(one, other)
end

for _, exposure in ipairs(record[EXPOSURES]) do
    rows = count(rows, row_of(exposure))
end
local before = rows
for place = 1, #rows_told, ROW_BYTES do
    rows = count(rows, string.sub(rows_told, place, place + ROW_BYTES - 1))
end
local changed = rows ~= before
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
    put(responses, told)
end
if not changed then
    return 0
end

local first = 1
if #rows > 0 and window_ms >= 0 then
    local since_ms = exposed_ms(rows, #rows - ROW_BYTES + 1) - window_ms
    while exposed_ms(rows, first) <= since_ms do
        first = first + ROW_BYTES
    end
end
local beyond = (#rows - first + 1) / ROW_BYTES - exposures_max
local forgotten = math.max(0, beyond)
rows = string.sub(rows, first + forgotten * ROW_BYTES)
while #responses > responses_max do
    table.remove(responses, 1)
end
record[EXPOSURES], record[COMPLETE], record[RESPONSES], record[ROWS] = {}, false, responses, rows
redis.call('SET', KEYS[1], cmsgpack.pack(record), 'PX', ttl_ms)
return forgotten
