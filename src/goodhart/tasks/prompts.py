"""A prompt as every room below sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids with an identity."""

    id: str
    """Twelve hexadecimal digits at least: the beginning of a content hash."""
    tokens: tuple[int, ...]

    @property
    def number(self) -> int:
        """Names the prompt's random numbers: a function of its content, not of its place in a table."""
        return int(self.id[:12], 16)
