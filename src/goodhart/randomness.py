"""Keyed random streams: every draw is a function of (seed, purpose, ids), so there is no state to save."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float, Int, UInt64


def key(seed: int, purpose: str, *ids: int | str) -> int:
    """A 128-bit key for a purpose: the BLAKE2b digest of its canonical spelling.

    A string among the ids is quoted, so that ("a", "b") and ("a/b",) differ.
    """
    label = "/".join([str(int(seed)), repr(purpose), *(repr(part) for part in ids)])
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=16).digest(), "little")


def stream(seed: int, purpose: str, *ids: int | str) -> np.random.Generator:
    """A generator that depends on its arguments alone (Philox, counter-based)."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *ids)))


def permutation(n: int, seed: int, purpose: str, *ids: int | str) -> Int[np.ndarray, " n"]:
    """A keyed shuffle of 0..n-1."""
    return stream(seed, purpose, *ids).permutation(n)


def _mix(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """The SplitMix64 finaliser (Steele, Lea and Flood 2014), a bijection of 64-bit words."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(
    seed: int,
    purpose: str,
    prompts: Int[np.ndarray, " row"],
    samples: Int[np.ndarray, " row"],
    length: int,
) -> Float[np.ndarray, "row length"]:
    """One uniform in [0, 1) per (seed, purpose, prompt, sample, position).

    A row's draws depend on its own ids only, so cutting or reordering a batch changes none of them.
    They are 53-bit fractions of a SplitMix64 hash chain; `length` extends a row without changing its
    beginning.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    base = key(seed, purpose)
    low, high = np.uint64(base & (2**64 - 1)), np.uint64(base >> 64)
    with np.errstate(over="ignore"):
        row = _mix(_mix(low + golden * prompts.astype(np.uint64)) ^ high)
        row = _mix(row + golden * (samples.astype(np.uint64) + np.uint64(1)))
        position = golden * (np.arange(length, dtype=np.uint64) + np.uint64(1))
        bits = _mix(_mix(row[:, None] + position[None, :]) ^ low)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
