"""Foundations that every package may use: money, time, ids, errors, settings, metrics, logs, files, lifecycle."""
