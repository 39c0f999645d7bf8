"""Everything that drives the platform: seeded traffic, a simulated exchange, the demo, replay and locust."""
