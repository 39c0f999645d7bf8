"""Lots as impressions have them: 64 bits that anything may be drawn from."""

from random import Random

_chance = Random(7)

#: So many that shares among them are what they ought to be.
LOTS = tuple(_chance.getrandbits(64) for _ in range(20_000))
