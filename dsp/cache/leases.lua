-- One shard of the lease store: whole campaigns, in one hash, so that it is there whole or not at all. The protocol is
-- that of dsp.cache.local_leases; dsp.cache.redis_leases says what is different.
-- KEYS: the hash. ARGV: the operation, its arguments in MessagePack, the name of a new generation, 1 in a cluster.
-- Fields of the hash:
--   node                  which of a cluster's nodes wrote all this
--   generation            made anew by whoever first finds nothing
--   whole                 1 once all that the book knows to be spent was told to this generation
--   epoch, watermark      the last epoch given out; how far the ledger has read
--   asked, ceiling        the largest promise asked for; the largest that may be given (see dsp.workers.lease_keeper)
--   holders               MessagePack: epoch (text) to {name, state, expires, syncs, syncs_seen, seen_ms}
--   limit:ITEM            "CAMPAIGN DAILY TOTAL CAMPAIGN_DAILY CAMPAIGN_TOTAL" in micros, -1 where unbounded
--   paused:ITEM           TOTAL for late wins, where the item is not active: its limit's is 0 then
--   lease:EPOCH-ITEM-DAY  "CAMPAIGN GRANTED SETTLED"; epoch 0 is the ledger's own, for late wins
--   leases:EPOCH          MessagePack: {"ITEM-DAY", ...}, all leases of the epoch
--   used:line_item:ITEM:DAY, used:campaign:CAMPAIGN:DAY    what leases were granted; DAY is `all` for the total
--   pruned                the day on which what was used on days long over was last taken out

local hash, operation, arguments = KEYS[1], ARGV[1], cmsgpack.unpack(ARGV[2])
local LIVE, FENCED = 0, 1
local NAME, STATE, EXPIRES, SYNCS, SYNCS_SEEN, SEEN_MS = 1, 2, 3, 4, 5, 6
local HOUR_MS, DAY_MS = 3600000, 86400000
local UNBOUNDED = 2 ^ 52 -- beyond it a number of Lua is not exact
local USED_DAYS_KEPT = 7

local function text(number)
    return string.format('%.0f', number)
end

local function get(field)
    return redis.call('HGET', hash, field)
end

local function number(field)
    return tonumber(get(field) or 0)
end

local function set(field, value)
    redis.call('HSET', hash, field, type(value) == 'number' and text(value) or value)
end

local function raise(field, value)
    if value > number(field) then
        set(field, value)
    end
end

local function holders()
    local packed = get('holders')
    return packed and cmsgpack.unpack(packed) or {}
end

local function save_holders(all)
    set('holders', cmsgpack.pack(all))
end

local function is_whole()
    return get('whole') == '1'
end

-- Leases.

local function lease_of(id)
    local stored = get('lease:' .. id)
    if not stored then
        return nil
    end
    local campaign, granted, settled = string.match(stored, '^(%d+) (%-?%d+) (%d+)$')
    local item, day = string.match(id, '^%d+%-(%d+)%-(%-?%d+)$')
    return {
        id = id, item = item, day = day, campaign = campaign,
        granted = tonumber(granted), settled = tonumber(settled),
    }
end

-- Moves a lease's grant by an amount, and with it what is used of the four budgets it draws on.
local function add(lease, amount, settled)
    lease.granted = lease.granted + amount
    lease.settled = settled or lease.settled
    set('lease:' .. lease.id, lease.campaign .. ' ' .. text(lease.granted) .. ' ' .. text(lease.settled))
    if amount ~= 0 then
        for _, owner in ipairs({'line_item:' .. lease.item, 'campaign:' .. lease.campaign}) do
            for _, day in ipairs({lease.day, 'all'}) do
                redis.call('HINCRBY', hash, 'used:' .. owner .. ':' .. day, text(amount))
            end
        end
    end
end

-- Returns the smallest rest of the four budgets that a line item draws on, and its campaign; 0 without limits.
local function left_of(item, day, late)
    local stored = get('limit:' .. item)
    if not stored then
        return 0, nil
    end
    local campaign, daily, total, campaign_daily, campaign_total =
        string.match(stored, '^(%d+) (%-?%d+) (%-?%d+) (%-?%d+) (%-?%d+)$')
    total = late and get('paused:' .. item) or total
    local used = redis.call('HMGET', hash,
        'used:line_item:' .. item .. ':' .. day, 'used:line_item:' .. item .. ':all',
        'used:campaign:' .. campaign .. ':' .. day, 'used:campaign:' .. campaign .. ':all')
    local left = UNBOUNDED
    for place, limit in ipairs({daily, total, campaign_daily, campaign_total}) do
        if tonumber(limit) >= 0 then
            left = math.min(left, tonumber(limit) - tonumber(used[place] or 0))
        end
    end
    return left, campaign
end

-- Returns whether it is this day somewhere on Earth: a holder may not draw on another day's budget.
local function is_day(day, now_ms)
    return math.floor((now_ms - 12 * HOUR_MS) / DAY_MS) <= day and day <= math.floor((now_ms + 14 * HOUR_MS) / DAY_MS)
end

-- Returns the first day of which it is kept what was used: by the log's clock, as no other may forget what was spent.
local function day_kept_min()
    return math.floor(number('watermark') / DAY_MS) - USED_DAYS_KEPT
end

local function grant(epoch, now_ms, want, live, grant_min, known)
    local item, day, wanted = text(want[1]), text(want[2]), want[3]
    local left, campaign = left_of(item, day)
    if not campaign or not is_day(want[2], now_ms) or want[2] < day_kept_min() then
        return
    end
    -- Competitors halve their share of the rest at every sync, so no one of them takes the last money to sit on it.
    local share = left
    if live > 1 then
        share = math.max(math.floor(left / (2 * live)), math.min(left, grant_min))
    end
    local amount = math.min(wanted, share)
    if amount <= 0 then
        return
    end
    local name = item .. '-' .. day
    local id = text(epoch) .. '-' .. name
    local lease = lease_of(id)
    if not lease then
        lease = {id = id, item = item, day = day, campaign = campaign, granted = 0, settled = 0}
        table.insert(known, name)
    end
    add(lease, amount)
end

-- Operations.

local operations = {}

function operations.standing()
    return cmsgpack.pack({get('generation'), is_whole(), number('asked'), number('ceiling')})
end

-- What is not whole does not know which epochs there were.
function operations.last_epoch()
    return is_whole() and text(number('epoch')) or '-1'
end

function operations.register(holder, epoch)
    local all = holders()
    if epoch <= number('epoch') then
        return 'taken'
    end
    for _, one in pairs(all) do
        if one[NAME] == holder and one[STATE] == LIVE then
            one[STATE] = FENCED
        end
    end
    all[text(epoch)] = {holder, LIVE, 0, 0, -1, 0}
    save_holders(all)
    set('epoch', epoch)
    return 'OK'
end

function operations.sync(epoch, now_ms, wants, returns, promise_ms, grant_min, spare_part, skew_max)
    -- Which day's budget is spent, and for how long, is by the holder's clock. This server's is the only other one here.
    local time = redis.call('TIME')
    local ahead_ms = now_ms - math.floor(time[1] * 1000 + time[2] / 1000)
    if math.abs(ahead_ms) > skew_max then
        return redis.error_reply('CLOCK the clock is ' .. text(ahead_ms) .. " ms ahead of the lease store's")
    end
    local all, field = holders(), 'leases:' .. text(epoch)
    local own = all[text(epoch)]
    if not own or own[STATE] ~= LIVE then
        return redis.error_reply('FENCED epoch ' .. text(epoch) .. ' is revoked')
    end
    own[SYNCS] = own[SYNCS] + 1
    raise('asked', promise_ms)
    if not is_whole() then -- nothing was ever granted by this generation, so nothing has to be remembered
        save_holders(all)
        return cmsgpack.pack({number('watermark'), {}})
    end
    if promise_ms > number('ceiling') then
        save_holders(all)
        return redis.error_reply('CEILING a promise so far ahead has yet to be written down in the book')
    end
    own[EXPIRES] = math.max(own[EXPIRES], promise_ms)
    save_holders(all)
    for _, returned in ipairs(returns) do
        local lease = lease_of(text(epoch) .. '-' .. text(returned[1]) .. '-' .. text(returned[2]))
        if lease then
            add(lease, -math.max(0, math.min(returned[3], lease.granted - lease.settled)))
        end
    end
    local live = 0
    for _, one in pairs(all) do
        if one[STATE] == LIVE then
            live = live + 1
        end
    end
    local packed = get(field)
    local known = packed and cmsgpack.unpack(packed) or {}
    for _, want in ipairs(wants) do
        grant(epoch, now_ms, want, live, grant_min, known)
    end
    local kept, reported = {}, {}
    for _, name in ipairs(known) do
        local lease = lease_of(text(epoch) .. '-' .. name)
        local open = lease.granted > lease.settled
        if open then
            local left = left_of(lease.item, lease.day)
            local spare = math.floor(math.max(0, left) / (spare_part * live))
            table.insert(reported, {
                tonumber(lease.item), tonumber(lease.day), lease.granted, lease.settled, left < 0, spare,
            })
        end
        if open or is_day(tonumber(lease.day), now_ms) then
            table.insert(kept, name)
        else -- its day is over and all of it was billed or returned: nothing can come any more
            redis.call('HDEL', hash, 'lease:' .. lease.id)
        end
    end
    set(field, cmsgpack.pack(kept))
    return cmsgpack.pack({number('watermark'), reported})
end

function operations.set_limits(limits)
    for _, limit in ipairs(limits) do
        local item, active = text(limit[1]), table.remove(limit)
        for place = 1, #limit do
            limit[place] = text(limit[place])
        end
        if active then
            redis.call('HDEL', hash, 'paused:' .. item)
        else
            set('paused:' .. item, limit[4])
            limit[4] = '0'
        end
        set('limit:' .. item, table.concat(limit, ' ', 2))
    end
    return 'OK'
end

function operations.settle(settled, watermark_ms)
    for _, one in ipairs(settled) do
        local lease = lease_of(one[1])
        -- One that is not known was closed, and what it bears is counted; or is of an earlier generation, and then the
        -- book tells what it bears before anything is granted.
        if lease and one[2] > lease.settled then
            -- By protocol a lease is never billed beyond its grant. If it is, what was spent counts all the same.
            add(lease, math.max(0, one[2] - lease.granted), one[2])
        end
    end
    raise('watermark', watermark_ms)
    return 'OK'
end

function operations.behind()
    local names = {}
    for _, field in ipairs(redis.call('HKEYS', hash)) do
        local id = string.match(field, '^lease:(.+)$')
        local lease = id and lease_of(id)
        if lease and lease.granted > lease.settled then
            table.insert(names, id)
        end
    end
    return cmsgpack.pack(names)
end

function operations.cover(claims)
    local granted = {}
    for _, claim in ipairs(claims) do
        local item, day, charged, promise_ms, amounts = text(claim[1]), text(claim[2]), claim[3], claim[4], claim[5]
        local left, campaign = left_of(item, day, true)
        raise('asked', promise_ms)
        -- What the book charges later than the ceiling allows would not be in what a next generation is told.
        if campaign and claim[2] >= day_kept_min() and is_whole() and promise_ms <= number('ceiling') then
            -- A lease that is not known is of an earlier generation: this one was told what it had been charged.
            local id = '0-' .. item .. '-' .. day
            local lease = lease_of(id) or
                {id = id, item = item, day = day, campaign = campaign, granted = charged, settled = charged}
            local taken, needed = charged, 0
            for _, amount in ipairs(amounts) do
                local more = math.max(needed, taken + amount - lease.granted)
                if more <= needed or more <= left then
                    taken, needed = taken + amount, more
                end
            end
            if needed > 0 then
                add(lease, needed)
            end
            table.insert(granted, {claim[1], claim[2], lease.granted})
        end
    end
    return cmsgpack.pack(granted)
end

-- Takes out what was used on days that are long over: nothing is granted on them any more.
local function prune()
    local day_min = day_kept_min()
    local today = day_min + USED_DAYS_KEPT
    if number('pruned') >= today then
        return
    end
    set('pruned', today)
    for _, field in ipairs(redis.call('HKEYS', hash)) do
        local day = string.match(field, '^used:.*:(%d+)$') or string.match(field, '^lease:0%-%d+%-(%d+)$')
        if day and tonumber(day) < day_min then
            redis.call('HDEL', hash, field)
        end
    end
end

function operations.reclaim(now_ms, holder_timeout_ms, grace_ms)
    -- Silence is measured by the caller's clock alone: see dsp.cache.local_leases.
    local all, watermark_ms, reclaimed = holders(), number('watermark'), 0
    for epoch, one in pairs(all) do
        if one[STATE] == LIVE and (one[SYNCS_SEEN] ~= one[SYNCS] or one[SEEN_MS] > now_ms) then
            one[SYNCS_SEEN], one[SEEN_MS] = one[SYNCS], now_ms
        end
        if one[STATE] == LIVE and one[SEEN_MS] < now_ms - holder_timeout_ms then
            one[STATE] = FENCED
        end
    end
    local closed = {}
    for epoch, one in pairs(all) do
        if one[STATE] == FENCED and one[EXPIRES] + grace_ms <= watermark_ms then
            table.insert(closed, epoch)
        end
    end
    for _, epoch in ipairs(closed) do
        local packed = get('leases:' .. epoch)
        for _, name in ipairs(packed and cmsgpack.unpack(packed) or {}) do
            local lease = lease_of(epoch .. '-' .. name)
            reclaimed = reclaimed + lease.granted - lease.settled
            add(lease, lease.settled - lease.granted)
            redis.call('HDEL', hash, 'lease:' .. lease.id)
        end
        redis.call('HDEL', hash, 'leases:' .. epoch)
        all[epoch] = nil
    end
    save_holders(all)
    prune()
    return text(reclaimed)
end

function operations.restate(generation, used, epoch_min, ceiling_ms)
    if get('generation') ~= generation then
        return redis.error_reply('GENERATION it was lost again')
    end
    if is_whole() then -- somebody else has done it, and leases may have been granted since
        return 'OK'
    end
    for _, one in ipairs(used) do
        set('used:' .. one[1], one[2])
    end
    -- Ceilings grow from generation to generation, and by far more than epochs are given out in between.
    raise('epoch', math.max(epoch_min, ceiling_ms))
    raise('ceiling', ceiling_ms)
    set('whole', '1')
    return 'OK'
end

function operations.raise_ceiling(generation, ceiling_ms)
    if get('generation') ~= generation then
        return redis.error_reply('GENERATION it was lost')
    end
    raise('ceiling', ceiling_ms)
    return 'OK'
end

if ARGV[4] == '1' then
    -- A replica that takes over may lack what its primary acknowledged last. Nothing it has can be relied upon.
    local node = redis.call('CLUSTER', 'MYID')
    local wrote = get('node')
    if wrote and wrote ~= node then
        redis.call('DEL', hash)
    end
    redis.call('HSETNX', hash, 'node', node)
end
redis.call('HSETNX', hash, 'generation', ARGV[3])
return operations[operation](unpack(arguments))
