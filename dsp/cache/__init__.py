"""Shared fast state: budget leases, user records and published blobs; one port each, embedded or on Redis."""
