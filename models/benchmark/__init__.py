"""Replays of recorded auctions through the functions that the platform runs, beside reference bidders and hindsight."""
