"""A finite world, as a study file describes it: a few responses to each prompt, and a table of preferences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from goodhart.config import Count, Positive, Range, Whole, named_elsewhere
from goodhart.errors import GoodhartError

CSV = "csv"
"""The kind of a world that is read from a file."""
MANY = 32
"""Responses at most: tables are enumerated in pairs."""


@dataclass(frozen=True)
class World:
    """What a tabular study is about: the responses of each prompt, who writes them at first, and which are preferred.

    A study file that has it trains tables in place of language models.
    """

    kind: Literal["transitive", "cyclic", "condorcet", "csv"] = "condorcet"
    """transitive: Bradley-Terry of random rewards; cyclic: every response beats the half that follows it in a circle
    (rock, paper, scissors); condorcet: one beats every other narrowly, another beats all the rest clearly and so has
    the highest mean win rate (Borda); csv: a file's."""
    file: str = named_elsewhere("")
    """For `csv`: the file (docs/tabular.md has its columns)."""
    prompts: Count = 16
    """How many; each has preferences and a reference of its own, and a larger world begins with the prompts of a
    smaller one. Of a file all are taken."""
    responses: Annotated[int, Range(3, MANY)] = 4
    """To each prompt."""
    spread: Positive = 1.0
    """Of the kinds that are drawn: standard deviation of rewards, or size of preferences, in logits."""
    reference: Literal["uniform", "random", "column"] = "uniform"
    """The law that every policy starts from: uniform, drawn (Dirichlet of 2), or the column `reference` of the file."""
    reward: Literal["win rate", "given"] = "win rate"
    """What methods with rewards learn from: logit of the mean win rate against the reference; given: the rewards of a
    transitive world, or the column `reward` of the file."""
    data: Literal["population", "labels"] = "population"
    """What is known of the truth. population: offline arms learn from every ordered pair with its true preference, and
    the proxy is the truth. labels: from `labels.number` pairs that are drawn uniformly and labelled by `labels.mode`
    and `labels.flip`, and the proxy is their empirical win matrix."""
    prior: Positive = 1.0
    """For `labels`: the proxy's pseudo-counts, so many wins of either side of every pair: its probability is
    (prior + wins) / (2 prior + pairs)."""
    gradient: Literal["exact", "sampled"] = "exact"
    """exact: a step has every prompt with every tuple of responses in its probability, where the method allows it, and
    `batch` is not read, or all of the data; sampled: `batch` prompts with sampled responses, or `batch` pairs of the
    data."""
    golden_beta: Positive = 0.1
    """Of the golden policy: the Nash equilibrium of p(pi > pi') - beta KL(pi || ref) + beta KL(pi' || ref)."""
    seed: Whole = 0
    """Names the world among those that are drawn."""

    def validate(self) -> None:
        """Raises GoodhartError for what does not fit together."""
        if (self.kind == CSV) != bool(self.file):
            raise GoodhartError(
                f"world.kind is {self.kind!r} and world.file is {self.file!r}",
                "a world of kind csv names its file, and the others name none",
            )
        if self.kind != CSV and self.reference == "column":
            raise GoodhartError(f"a world of kind {self.kind!r} has no column reference", "take uniform or random")
        if self.kind not in (CSV, "transitive") and self.reward == "given":
            raise GoodhartError(
                f"a world of kind {self.kind!r} has no rewards of its own", "set world.reward to 'win rate'"
            )
        for name in ("prompts", "responses", "spread", "seed") if self.kind == CSV else ():
            if getattr(self, name) != World.__dataclass_fields__[name].default:
                raise GoodhartError(f"world.{name} is not read: the file says all of it", f"leave world.{name} out")
