"""The event consumers: one loop a file, each its own process. What they apply lives in the pure packages below."""
