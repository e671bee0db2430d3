"""Which kinds of initial pairs a built-in task has, and how many of each."""

from __future__ import annotations

from collections import Counter

from goodhart.recipes.settings import Pool


def kinds(pool: Pool, number: int) -> list[str]:
    """The kinds of the first pairs, each as often as its share says: always the one that is furthest behind.

    So the kinds of fewer pairs are the first of those of more, and how many pairs of a kind there are is known before.
    """
    shares = {kind: getattr(pool, kind) for kind in ("samples", "early", "human", "mismatched", "degenerate")}
    result: list[str] = []
    counts = Counter[str]()
    for place in range(number):
        kind = max(shares, key=lambda each: shares[each] * (place + 1) - counts[each])
        counts[kind] += 1
        result.append(kind)
    return result
