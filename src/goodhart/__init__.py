"""Goodhart: a laboratory for preference alignment of language models."""
