"""A seeded, deterministic simulation of many bidder processes and everything that can go wrong with their money.

The lease book, the lease store, the ledger's job and book, the pacing step and the price are the real ones; the event
log is a list with the real log's stamps; time, the network, processes and the exchange are simulated. Inspired by
TigerBeetle's VOPR.
"""
