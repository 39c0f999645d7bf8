"""The facts: what was decided, won, billed, seen, clicked and converted, as versioned records on the event log."""
