"""The rules by which several responses to a prompt become comparisons of two, by name; nothing is imported for that."""

from __future__ import annotations

from typing import Literal, get_args

Rule = Literal["best and worst", "best and other", "all", "none"]
"""best and worst: one pair of a row; best and other: one pair, the best and one drawn from those that are worse; all:
every pair of the row's responses, where equal ones are ties; none: of marks no pairs, each response has its own."""
RULES: tuple[Rule, ...] = get_args(Rule)
ALONE: Rule = "none"
"""The rule by which marks stay what they are."""
