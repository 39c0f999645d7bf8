"""A whole day of the running platform in two minutes, deterministic: does money flow as planned, hour by hour?

The bidder's parts, the workers' jobs, the stores and the simulated exchange are the real ones, in one process, on an
event loop whose time is simulated; only HTTP is left out.
"""
