"""The wire: OpenRTB 2.5 and 2.6, and what a decision sees of a request."""
