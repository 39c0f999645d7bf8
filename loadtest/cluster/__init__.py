"""The platform on real servers: measured under load (run.py), and with one part after the other broken (drill.py)."""
