"""The words of the API's documentation. No logic; a test fails when a field or an endpoint has none."""

from dsp.catalog.kinds import Kind

DESCRIPTION = """\
The control plane: what is advertised, to whom, for how much, and what came of it.

* **Keys.** Every request under `/v1` needs `Authorization: Bearer KEY`. A `client` reads what is one advertiser's, and
  reports on it; what is others' is not there for it, or refused. A `viewer` reads everything, a `member` writes the
  catalogue, an `owner` manages keys.
* **Money** is a whole number of micros (1/1,000,000) of the book's currency; a `price_micros_cpm` is for a thousand
  impressions.
* **Times** are milliseconds since the Unix epoch, UTC; hours of dayparts are in the advertiser's time zone.
* **Life cycle.** Entities are created as drafts, then activated, paused, and archived for good; never deleted.
  `effective_status` is what the own status comes to given those of the ancestors: only what is effectively active bids.
* **Changes** are merged (RFC 7396), need `If-Match` with the ETag they are based on, and are kept with author, before
  and after. Their body may be `application/json` or `application/merge-patch+json`.
* **Many at once.** `POST /v1/{kind}/batch` makes up to a page of creations and changes, all or none.
* **Repetition.** A write with an `Idempotency-Key` can be repeated safely: it gets the first answer, and does nothing.
* **Rates.** A key that makes more requests in a second than the operator allows (a hundred, where nothing else is set)
  gets 429 with `Retry-After`.
* **Refusals** are problem documents (RFC 9457) that name every refused field. `X-Request-Id` is echoed, or made.
"""

TAGS = [
    {"name": "advertisers", "description": "Who pays. Its time zone decides when its days begin."},
    {"name": "campaigns", "description": "A budget and a flight that line items share."},
    {"name": "line items", "description": "What bids: goal, budget, flight, targeting and caps."},
    {"name": "creatives", "description": "The ads of a line item."},
    {"name": "deals", "description": "Private deals, by their id on the exchange."},
    {"name": "audiences", "description": "Segments that targeting may refer to."},
    {"name": "conversion rules", "description": "What counts as a conversion."},
    {"name": "changes", "description": "Who did what to the catalogue, and when."},
    {"name": "reports", "description": "What was spent and what came of it, from the book."},
    {"name": "explain", "description": "Why something bids or does not."},
    {"name": "keys", "description": "API keys; for owners."},
    {"name": "operations", "description": "For those who run the platform."},
]

KINDS: dict[Kind, str] = {
    Kind.ADVERTISER: "Who pays; the top of the tree.",
    Kind.CAMPAIGN: "A budget and a flight that its line items share.",
    Kind.LINE_ITEM: "What bids. Its campaign's budget, flight and caps hold as well.",
    Kind.CREATIVE: "An ad of a line item.",
    Kind.DEAL: "A private deal; line items name it in targeting on the dimension `deal`. They bid "
    "through it only while it is active, and never again once it is archived; through an id that no deal here has they "
    "bid on the exchange's terms.",
    Kind.AUDIENCE: "A segment of users, by the id that bid requests carry.",
    Kind.CONVERSION_RULE: "What counts as a conversion, and what it is worth, while it is active. A click takes a "
    "token to the landing page, in the parameter `dsp_click_id`; a conversion is reported with it, by GET or POST of "
    "`/conv?t=TOKEN&rule=ID` on the notice port, as often as need be. Without `rule` it counts under the advertiser's "
    "first active one, or as a conversion without a value where there is none.",
}

#: Summary and description by endpoint; {one} and {many} are the kind's names.
ACTIONS: dict[str, tuple[str, str]] = {
    "create": ("Create a draft {one}", "The {one} does nothing until it is activated."),
    "list": ("List {many}", "In order of id, a page at a time, archived ones too unless `status` filters them."),
    "read": ("Read the {one}", "The answer's ETag is what a change needs in `If-Match`."),
    "update": (
        "Change the {one}",
        "Fields given are merged, others stay; null resets a field, lists are replaced. A change that changes nothing "
        "makes no new version. An archived {one} cannot be changed.",
    ),
    "versions": ("List the versions of the {one}", "Every write, oldest first: who, when, before and after."),
    "activate": ("Activate the {one}", "From draft or paused. It bids within seconds, if its ancestors are active."),
    "pause": ("Pause the {one}", "It and what is below it stop bidding within two seconds."),
    "archive": ("Archive the {one}", "For good: it and what is below it never bid again."),
    "batch": (
        "Create or change many {many}",
        "Creations, updates and steps of the life cycle, all of which are made or none: where any is refused nothing "
        "is changed, and `errors` has the faults of each, such as `operations[3].fields.budget.daily_micros`.",
    ),
}

PROBLEMS: dict[int, str] = {
    400: "The body is not JSON, or a header is malformed.",
    401: "The API key is missing, unknown or revoked.",
    403: "The API key's role is not enough.",
    404: "There is no such entity.",
    409: "The life cycle forbids it, or somebody wrote the same at the same time.",
    412: "The entity has changed since it was read: read it again.",
    413: "The body is too large.",
    415: "The body is not plain `application/json`.",
    422: "Values are refused; `errors` has every one with a pointer to it.",
    428: "`If-Match` is missing.",
    429: "The key asks too often; try again after `Retry-After` seconds.",
    503: "The database does not answer; try again after `Retry-After` seconds.",
}

#: By field; by schema and field where it says something else there.
FIELDS: dict[str, str] = {
    "id": "Given by the platform.",
    "name": "For people; up to 200 characters.",
    "external_id": "Your own id; unique within the kind.",
    "status": "What was set; changed by activate, pause and archive.",
    "Problem.status": "That of the answer.",
    "effective_status": "What the status comes to given those of the ancestors.",
    "version": "Counts writes; the ETag.",
    "ApiKey.name": "By which it is revoked.",
    "prefix": "How the key begins.",
    "role": "What the key may do: `client`, `viewer`, `member` or `owner`, each what those before it may.",
    "ApiKey.advertiser_id": "Whose client the key is for; null for another role.",
    "created_ms": "When it was made.",
    "revoked_ms": "When it was revoked; null while it is good.",
    "revoked_by": "Who revoked it: an API key or the command line; null while it is good, and where that is not known.",
    "domain": "The advertiser's domain, as `adomain` of bids and as blocks (`badv`) look at it.",
    "categories": "IAB categories such as IAB2-3.",
    "timezone": "IANA name such as Europe/Berlin; cannot be changed once the advertiser has bid.",
    "frequency_caps": "At most so many impressions per user within any window; all hold at once.",
    "advertiser_id": "The advertiser it belongs to; cannot be changed.",
    "campaign_id": "The campaign it belongs to; cannot be changed.",
    "line_item_id": "The line item it belongs to; cannot be changed.",
    "DeliveryReport.line_item_id": "Whose delivery it is.",
    "LineItemVerdict.line_item_id": "On which line item.",
    "SpendRow.advertiser_id": "Null unless asked for.",
    "SpendRow.campaign_id": "Null unless asked for.",
    "SpendRow.line_item_id": "Null unless asked for.",
    "budget": "Hard bounds on spend; null means none of that kind. An active line item needs one, its own or its "
    "campaign's.",
    "daily_micros": "For one day in the advertiser's time zone.",
    "total_micros": "For the whole flight.",
    "flight": "When it runs.",
    "start_ms": "The first instant; 0 means that it has begun.",
    "end_ms": "The instant after the last; null means open.",
    "goal": "A bound on the average cost of what is bought; within it and the budget, as much as possible is bought.",
    "kind": "What the bound is on: a thousand impressions (`cpm`), a click (`cpc`), a conversion (`cpa`), or the "
    "conversion value that the cost brings (`roas`), which needs a conversion rule with a value.",
    "target_micros": "What a unit may cost on average; for `roas`, the conversion value that one unit of cost must "
    "bring: 4000000 is 400 %. Above 0.",
    "pacing": "How spend spreads: `even`, `ahead` of even, or `asap`.",
    "dayparts": "Hours in which it runs; an empty list means always.",
    "weekday": "0 is Monday, 6 is Sunday.",
    "start_hour": "0 to 23.",
    "end_hour": "1 to 24, exclusive; hours across midnight are two dayparts.",
    "targeting": "Where and to whom; every clause must hold.",
    "clauses": "By dimension: what is included and what is excluded.",
    "audience": "An AND of ORs: the user must be in one segment of each group.",
    "include": "At least one must apply; an empty list admits everything.",
    "exclude": "None may apply; wins over `include`.",
    "FrequencyCap.impressions": "At most so many,",
    "impressions": "Billed, whether charged or owed.",
    "RequestReport.impressions": "What becomes of each; empty where the request is refused.",
    "Excluded.impressions": "How many impressions it took.",
    "SupplyReport.impressions": "How many they offered.",
    "SupplyReport.excluded": "How many impressions each reason took, most first.",
    "DeliveryReport.date": "Today, in the advertiser's time zone.",
    "FrequencyCap.window_seconds": "within any window so long.",
    "ConversionRule.window_seconds": "A conversion that comes longer after the bid does not count.",
    "bid_min_micros_cpm": "Never bid less; null means no bound.",
    "bid_max_micros_cpm": "Never bid more; null means no bound.",
    "format": "`banner`, `video`, `audio` or `native`.",
    "landing_url": "Where a click leads: absolute, http or https.",
    "markup": "HTML for a banner, the media file's URL for video and audio (where `mime` is `application/xml`, of "
    "another ad server's VAST document: a VAST tag), JSON assets for native; up to 64 KiB. In HTML `${CLICK_URL}` "
    "(`${CLICK_URL_ENC}`: percent-encoded) becomes the address that counts a click and leads to `landing_url`, "
    "`${CACHEBUSTER}` a value of each bid's own, and macros of OpenRTB such as `${AUCTION_ID}` the exchange's values. "
    "HTML without `${CLICK_URL}` is one link as a whole, and has no link or pop-up of its own.",
    "width": "Pixels; required for banner and video.",
    "height": "Pixels; required for banner and video.",
    "duration_seconds": "Required for video and audio.",
    "mime": "Media type such as video/mp4; required for video and audio. Scripts need VPAID. With `application/xml` "
    "the ad is a wrapper around the VAST tag that `markup` is the address of: for players that take wrappers, and "
    "clicks, which are counted, lead where the tag says. It may have `${CACHEBUSTER}`, macros of OpenRTB and VAST, "
    "and `${CLICK_URL_ENC}` where its ad server lets clicks lead through that; otherwise pages get no `dsp_click_id`.",
    "bitrate_kbps": "Of the media file.",
    "attributes": "OpenRTB creative attributes (list 5.3).",
    "apis": "OpenRTB API frameworks that the creative needs (list 5.6).",
    "protocols": "OpenRTB video protocols (list 5.8) that it can be sent in; an empty list means all. Wrappers' (5, "
    "6, 8, 12, 14) are for VAST tags.",
    "secure": "Whether everything it loads comes over https.",
    "language": "ISO 639-1.",
    "trackers": "Third parties to tell what becomes of the ad, up to 30. A banner tells of impressions by images; its "
    "scripts are part of `markup`, and of clicks it tells through redirects in `landing_url`, which have to hand "
    "`dsp_click_id` on. A native ad tells by images of impressions, `viewable` and clicks, and by scripts of "
    "impressions; video and audio by images of all events (`viewable` of video in VAST 4), and of impressions by "
    "`omid`. What a slot does not take is left out: of a native ad what `eventtrackers` do not offer, and `omid` "
    "where the player lacks Open Measurement (framework 7), which in `apis` is required. A change makes exchanges "
    "review the ad anew.",
    "event": "`impression`, `viewable`, `click`, or of what plays `start`, `first_quartile`, `midpoint`, "
    "`third_quartile`, `complete`.",
    "method": "`image` is a pixel, `script` JavaScript, `omid` JavaScript for Open Measurement (`AdVerifications`).",
    "url": "https. It may have `${CACHEBUSTER}`, macros of OpenRTB such as `${AUCTION_ID}`, and in video and audio "
    "those of VAST such as `[TIMESTAMP]`.",
    "vendor": "The vendor's key such as company.com-omid; for `omid`, which needs it.",
    "parameters": "What the vendor's script is told; for `omid`.",
    "exchange": "Name of the exchange's profile.",
    "deal_id": "The deal's id on the exchange.",
    "price_micros_cpm": "What was agreed, or null. The deal's floor, and its price where that is fixed, is this or "
    "what the exchange asks, whichever is more; line items bid it where their goal and bounds allow it.",
    "auction": "`first_price`, `second_price` or `fixed_price`.",
    "segment_id": "As bid requests carry it, in lower case.",
    "post_view": "Always false: a conversion is known by the click before it.",
    "value_micros": "What a conversion is worth to the advertiser.",
    "at_ms": "When.",
    "actor": "Who: an API key or a load.",
    "number": "Grows with every write to the catalogue.",
    "entity_kind": "The kind of the entity that was written.",
    "entity_id": "Its id.",
    "action": "`create`, `update`, `activate`, `pause` or `archive`.",
    "before": "The entity before; null for a creation.",
    "after": "The entity after.",
    "title": "The status in words.",
    "detail": "Why, for people.",
    "request_id": "Also in the header `X-Request-Id` and in the server's log.",
    "catalogue_revision": "Counts writes to the catalogue.",
    "refused": "Why it is not looked at further; null when it is.",
    "imp_id": "As in the request.",
    "left": "How many line items each stage of the funnel left.",
    "excluded": "How many line items each reason took, most first.",
    "line_items": "The verdict on each line item of the catalogue, or of the part of it that was asked for.",
    "stage": "Where in the funnel it was lost; null for one that was worth scoring.",
    "reason": "Why; null for one that was worth scoring.",
    "label": "As metrics carry it.",
    "sentence": "For people.",
    "currency": "Of all amounts.",
    "as_of_ms": "When the book was read.",
    "notices_pending": "Notices that the book has not read yet; null when that is not known.",
    "total": "The sum of all rows.",
    "creative_id": "Null unless asked for, as each dimension is; also, as exchange and hour are, for what was entered "
    "before the book told them apart.",
    "hour": "When the hour of the bid began, in UTC, such as 2026-01-31T13:00Z.",
    "rows": "One for each combination of the dimensions, in their order.",
    "date": "Day in the advertiser's time zone; null unless asked for.",
    "spend_micros": "Billed and charged to the budget.",
    "late_micros": "Billed after the reservation had expired, and no budget had room for it: owed, not charged.",
    "clicks": "Once per bid, on the day of the bid.",
    "conversions": "Once per bid and conversion rule, on the day of the bid.",
    "conversion_value_micros": "What the conversions are worth by their rules.",
    "expected_value_micros": "What the impressions were expected to be worth when bid on, in the terms of each goal: "
    "spend below it is spend within the targets.",
    "bids": "Sent, without tests, as bidders count them: statistics, not money.",
    "win_rate_micros": "Impressions per bid: 12000 is 1.2 %.",
    "ctr_micros": "Clicks per impression: 12000 is 1.2 %.",
    "cvr_micros": "Conversions per click: 12000 is 1.2 %.",
    "ecpm_micros": "Spend per thousand impressions.",
    "cpc_micros": "Spend per click.",
    "cpa_micros": "Spend per conversion.",
    "roas_micros": "Conversion value per unit of spend: 4000000 is 400 %.",
    "held": "What keeps it from bidding now, whatever is asked for; empty where nothing does.",
    "budgets": "Every budget that bounds it, its own and its campaign's.",
    "budget_of": "`line_item` or `campaign`.",
    "daily": "Whether it is for `date` alone.",
    "limit_micros": "The budget.",
    "spent_micros": "Billed and charged, of a budget or since the flight began.",
    "left_micros": "What the book leaves of it. Bids that are out may take a part; until they expire, what a bidder "
    "that died had leased takes one too, and may leave nothing to bid with.",
    "pace": "How pacing holds it to its plan; null before it has.",
    "multiplier": "What each bid is scaled by: below 1 pacing holds back, to keep to the plan or to the target.",
    "planned_micros": "What its plan is to have spent since the flight began; null without a budget.",
    "supply": "What it may bid on, by a sample of requests; null where they cannot be read, and in lists.",
    "since_ms": "When the oldest of them came; null without any.",
    "requests": "How many were looked at.",
    "eligible": "On how many of the impressions it may bid.",
    "floor_micros_cpm": "Half of these ask for no more in the open auction; null without any.",
    "errors": "Every refused field.",
    "pointer": "JSON pointer (RFC 6901) into the body.",
    "field": "The field's path, such as `dayparts[0].end_hour`.",
}
