"""The business vocabulary: advertisers, campaigns, line items, creatives, and every reason not to bid."""
