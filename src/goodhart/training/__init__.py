"""Loops from data to checkpoints."""
