"""What learning is worth: a day bought on the prior, on what a day's log taught, and on the true response model.

The requests, the funnel, the prices, the pacing law, the log and its training are the platform's, the rivals and people
are the simulated market's. What people did is remembered and a feature. There are no sockets and no leases, and
nothing is capped.
"""
