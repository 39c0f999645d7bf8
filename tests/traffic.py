"""Simulated traffic for tests whose subject is not how fast answers come."""

from dataclasses import replace

from loadtest.traffic import SOURCES

#: The simulated exchanges, waiting so long for an answer that none is late on a busy machine.
PATIENT = tuple(replace(source, tmax_ms=10_000) for source in SOURCES)
