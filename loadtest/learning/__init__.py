"""What learning is worth: a day bought on the prior, on what a day's log taught, and on the true response model.

The requests, the funnel, the prices, the pacing law, the log and its training are the platform's, the rivals and people
are the simulated market's. There are no sockets, no leases and no users' records: nothing is capped.
"""
