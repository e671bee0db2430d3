"""Trackers of experiments, which training runs are forwarded to."""
