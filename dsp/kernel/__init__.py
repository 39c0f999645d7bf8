"""Foundations every room may use: money, time, ids, errors, configuration, metrics, logging, lifecycle."""
