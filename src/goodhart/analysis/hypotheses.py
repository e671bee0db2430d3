"""Hypotheses as data: what is compared, what is predicted, and the rule that decides, fixed before the run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from goodhart.config import Count, Positive, Range
from goodhart.errors import GoodhartError

Statistic = Literal[
    "gap at equal KL",
    "gap at equal setting",
    "gap at equal compute",
    "gap at equal pairs",
    "peak",
    "best possible",
    "accuracy",
    "winner shift",
    "loser shift",
    "stream accuracy",
    "correlation",
]
"""gap at equal KL, compute, pairs: the arms' cross-fitted envelopes, averaged over the budgets that both reached.
gap at equal setting: at each beta and learning rate of both arms, along their trajectories, at equal KL.
peak: the cross-fitted best checkpoint. best possible: the 90% quantile over checkpoints, first over second, less 1
(arXiv 2405.08448, figure 11). accuracy: of the last checkpoints as classifiers of golden pairs. winner, loser shift:
log policy - log SFT of golden winners or losers at the last checkpoints, nats. stream accuracy: agreement with the
golden model on the pairs of a recorded stream, of the `proxy` or of an arm's last checkpoint at the same setting and
seed. correlation: Spearman's, of accuracy and golden win rate over the checkpoints of all arms that are named."""

PROXY = "proxy"
"""The classifier of a stream that is no arm."""

OF_RESPONSES = (
    *("gap at equal KL", "gap at equal setting", "gap at equal compute", "gap at equal pairs"),
    *("peak", "best possible"),
)
"""The statistics that compare arms by a measure of what they write."""

FEWEST_SEEDS = 2
"""Of a first look: with one seed an interval covers the prompts alone."""
_ROUNDING = 1e-9
_AT_EQUAL_KL = ("gap at equal KL", "gap at equal setting")
_JUDGED_BY = ("golden_vs_policy", "golden_vs_sft", "hidden")


@dataclass(frozen=True)
class Contrast:
    """One number with its prediction: a statistic of the first arm less that of the second."""

    statistic: Statistic
    """What is compared (docs/study_files.md has each)."""
    first: str
    """An arm."""
    second: str = ""
    """The arm that it is compared with; `correlation` needs none."""
    baseline: tuple[str, ...] = ()
    """Two more arms, whose difference is taken off: does the gap change from there to here?"""
    stream: str = ""
    """For `stream accuracy`: the arm whose recorded pairs are classified."""
    measure: Literal["golden_vs_policy", "golden_vs_sft", "proxy_vs_policy", "proxy_vs_sft", "hidden"] = (
        "golden_vs_policy"
    )
    """By whom responses are judged, and against whose."""
    split: Literal["held_out", "train"] = "held_out"
    """On which prompts or pairs."""
    predicted: Literal["greater", "less", "near", "nothing"] = "greater"
    """Than `than`; near: within `than` of 0; nothing: the number is shown, and there is no verdict on it."""
    than: float = 0.0
    """What the prediction is set against, in the statistic's unit."""
    decides: bool = True
    """Whether the hypothesis' verdict rests on it; all others are shown beside it."""
    smallest: Annotated[float, Range(0)] = 0.0
    """Its own size of interest, in its unit: a value shown to be nearer to 0 is decided; 0: that of the study's looks,
    where the value is a win rate."""

    def interest(self, usual: float) -> float:
        """The size of interest, `usual` being the study's, in win rate; 0 where there is none.

        What is predicted to be near 0 has none: its prediction says how near.
        """
        if self.predicted not in ("greater", "less"):
            return 0.0
        return self.smallest or (usual if self.in_win_rate else 0.0)

    @property
    def in_win_rate(self) -> bool:
        """Whether it is a difference of win rates."""
        return self.statistic in OF_RESPONSES and not any(self._unit)

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that it needs."""
        named = (self.first, self.second, *self.baseline, self.stream)
        return tuple(dict.fromkeys(name for name in named if name and name != PROXY))

    @property
    def question(self) -> tuple[str, ...]:
        """What is measured, whichever arm comes first and whatever is predicted."""
        sides, turned = (self.first, self.second, *self.baseline), (self.second, self.first, *self.baseline[::-1])
        return self.statistic, self.measure, self.split, self.stream, *min(sides, turned)

    @property
    def companions(self) -> tuple[Contrast, ...]:
        """Other comparisons of the same arms: between envelopes, at equal setting, against SFT, by the hidden measure.

        None of them decides. Each differs from the contrast in the statistic or in the measure. A prediction without a
        margin is theirs too; a margin is only where the unit is the same, because it means nothing in another.
        """
        if self.statistic not in OF_RESPONSES:
            return ()
        made = [replace(self, statistic=statistic, decides=False) for statistic in _AT_EQUAL_KL]
        made += [replace(self, measure=measure, decides=False) for measure in _JUDGED_BY]
        return tuple(self._without_margins(each) for each in made if each.question != self.question)

    def _without_margins(self, companion: Contrast) -> Contrast:
        if companion._unit == self._unit:
            return companion
        plain = replace(companion, smallest=0.0)
        return replace(plain, predicted="nothing", than=0.0) if self.than else plain

    @property
    def _unit(self) -> tuple[bool, bool]:
        """Whether it is a ratio, and whether of the hidden measure instead of win rates."""
        return self.statistic == "best possible", self.measure == "hidden"

    def validate(self, where: str, known: tuple[str, ...]) -> None:
        """Raises GoodhartError for an arm that is not there, or a prediction without meaning."""
        streams = self.statistic == "stream accuracy"
        if streams != bool(self.stream) or (PROXY in (self.first, self.second, *self.baseline) and not streams):
            raise GoodhartError(
                f"{where} is {self.statistic!r} of {self.first!r} and {self.second!r} with stream {self.stream!r}",
                "stream accuracy names the arm whose stream is classified, and it alone has the proxy as a classifier",
            )
        for arm in self.arms:
            if arm not in known:
                raise GoodhartError(f"{where} names arm {arm!r}, which the study has not", f"known: {', '.join(known)}")
        if len(self.baseline) not in (0, 2) or (not self.second and self.statistic != "correlation"):
            raise GoodhartError(
                f"{where} compares {self.first!r} with {self.second!r} and baseline {list(self.baseline)}",
                "name a second arm, and no or two arms as the baseline",
            )
        if self.baseline and self.statistic not in (*_AT_EQUAL_KL, "peak", "best possible"):
            raise GoodhartError(f"{where} has a baseline, which {self.statistic!r} cannot take off", "leave it out")
        if self.predicted == "near" and self.than <= 0:
            raise GoodhartError(f"{where} predicts a value near 0 within {self.than}", "give a positive `than`")
        if self.smallest and self.predicted in ("near", "nothing"):
            raise GoodhartError(
                f"{where} predicts {self.predicted!r} and has a smallest value of interest", "leave `smallest` out"
            )
        if self.predicted == "nothing" and self.decides:
            raise GoodhartError(f"{where} decides and predicts nothing", "give a prediction, or `decides: false`")


@dataclass(frozen=True)
class Published:
    """What a paper found on the same statement, to stand beside the study's own verdict."""

    verdict: Literal["supported", "contradicted", "mixed", ""] = ""
    """Of the statement as it stands here; empty where there is none."""
    results: tuple[str, ...] = ()
    """Names of published results; see `goodhart.paper.results`."""
    figure: str = ""
    """The published frontier that is drawn beside the study's."""
    panels: tuple[str, ...] = ()
    """Its panels; empty: all."""
    series: dict[str, str] = field(default_factory=dict[str, str])
    """The study's arm for each of its series."""


@dataclass(frozen=True)
class Hypothesis:
    """A statement with the contrasts that decide on it: `rulings.Ruling` has the rule."""

    statement: str
    """In words, for the report."""
    contrasts: tuple[Contrast, ...]
    """The numbers that decide on it, and what stands beside them."""
    paper: Published = Published()
    """What arXiv 2405.08448 found."""

    def asked(self) -> Iterator[tuple[Contrast, bool]]:
        """Its contrasts and, behind each that decides, the companions that it does not name; whether each is one."""
        known = {contrast.question for contrast in self.contrasts}
        for contrast in self.contrasts:
            yield contrast, False
            for companion in contrast.companions if contrast.decides else ():
                if companion.question not in known:
                    known.add(companion.question)
                    yield companion, True

    def validate(self, name: str, known: tuple[str, ...]) -> None:
        """Raises GoodhartError for a hypothesis that nothing decides, or a contrast that has no meaning."""
        if not any(contrast.decides for contrast in self.contrasts):
            raise GoodhartError(f"no contrast decides hypothesis {name!r}", "give at least one")
        for arm in self.paper.series.values():
            if arm not in known:
                raise GoodhartError(f"hypotheses.{name}.paper draws arm {arm!r}", f"known: {', '.join(known)}")
        for i, contrast in enumerate(self.contrasts):
            contrast.validate(f"hypotheses.{name}.contrasts[{i}]", known)


@dataclass(frozen=True)
class Map:
    """Hypotheses laid out by what differs between them, to be drawn as a picture."""

    rows: str
    """What differs from row to row, with its unit."""
    columns: str
    """What differs from column to column."""
    panels: dict[str, dict[str, dict[str, str]]]
    """By panel, row and column: the hypothesis that stands there."""

    def validate(self, name: str, known: Collection[str]) -> None:
        """Raises GoodhartError for a hypothesis that is not there."""
        for panel, rows in self.panels.items():
            for row, columns in rows.items():
                for column, hypothesis in columns.items():
                    if hypothesis not in known:
                        raise GoodhartError(
                            f"maps.{name} has {hypothesis!r} at {panel}, {row}, {column}", "name one of the hypotheses"
                        )


@dataclass(frozen=True)
class League:
    """Methods ranked by what they win on average over one range of KL, the same for all of them."""

    baseline: str
    """The arm that every other is set against."""
    budget: tuple[Annotated[float, Range(0)], ...] = (1.0, 4.0)
    """The range of KL(policy || SFT) from low to high, nats."""
    methods: tuple[str, ...] = ()
    """The arms that are ranked; empty: all arms of the study file."""

    def of(self, arms: Sequence[str]) -> League:
        """The league with the methods named that it is of, in a study of these arms."""
        return self if self.methods else replace(self, methods=tuple(arms))

    def validate(self, arms: Sequence[str]) -> None:
        """Raises GoodhartError for a range that is none, or a method that is not there or not ranked."""
        if len(self.budget) != 2 or not self.budget[0] < self.budget[1]:
            raise GoodhartError(
                f"league.budget is {list(self.budget)}",
                "give the low and the high end of a range of KL in nats, for example [1.0, 4.0]",
            )
        known, named = ", ".join(arms), self.of(arms).methods
        for arm in named:
            if arm not in arms:
                raise GoodhartError(
                    f"league.methods names {arm!r}, which is no arm of the study", f"arms with checkpoints: {known}"
                )
        if len(set(named)) != len(named) or len(named) < 2:
            raise GoodhartError(
                f"league.methods is {list(named)}", "name at least two arms, each once, or leave it out for all arms"
            )
        if self.baseline not in named:
            raise GoodhartError(
                f"league.baseline is {self.baseline!r}, which is not ranked", f"name one of: {', '.join(named)}"
            )


@dataclass(frozen=True)
class Looks:
    """When a study is looked at, and the smallest difference that it cares for."""

    seeds: tuple[Count, ...] = (3, 5, 8)
    """Numbers of seeds, growing; a look has the first so many of the study's `seeds`."""
    shares: tuple[Positive, ...] = (0.1, 0.3, 0.6)
    """What each look may spend of the 5% error; they add up to 1."""
    smallest: Annotated[float, Range(0, 1, open_high=True)] = 0.0
    """The size of interest, in win rate: a contrast shown to be smaller is decided too; 0: there is none."""

    def validate(self, seeds: int) -> None:
        """Raises GoodhartError for looks that are none, or that ask for more seeds than the study lists."""
        if not self.seeds or list(self.seeds) != sorted(set(self.seeds)) or self.seeds[0] < FEWEST_SEEDS:
            raise GoodhartError(
                f"looks.seeds is {list(self.seeds)}",
                f"give growing numbers of seeds from {FEWEST_SEEDS} on, for example [3, 5, 8]",
            )
        if len(self.shares) != len(self.seeds) or abs(sum(self.shares) - 1) > _ROUNDING:
            raise GoodhartError(
                f"looks.shares is {list(self.shares)} for {len(self.seeds)} looks",
                "give one share for each look; they are positive and add up to 1",
            )
        if self.seeds[-1] > seeds:
            raise GoodhartError(
                f"the last look has {self.seeds[-1]} seeds, and the study lists {seeds}",
                "list as many seeds, or leave `seeds` out",
            )


def implied(arms: Sequence[str]) -> dict[str, Hypothesis]:
    """What a study without hypotheses asks: does the first arm win more often than each other at equal KL?"""
    return {
        f"{arms[0]} against {other}": Hypothesis(
            f"At equal KL {arms[0]} wins more often than {other}.", (Contrast("gap at equal KL", arms[0], other),)
        )
        for other in arms[1:]
    }


@dataclass(frozen=True)
class Axis:
    """Arms in the order of one thing that is changed, to be drawn against it."""

    label: str
    """What is changed, with its unit."""
    lines: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """By line: the arms and their places on the axis."""
    log: bool = True
    """Whether the axis is logarithmic."""
    beside: tuple[str, ...] = ()
    """Arms that have no place on it, drawn as levels."""

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that it needs."""
        return (*dict.fromkeys(arm for line in self.lines.values() for arm in line), *self.beside)

    def validate(self, name: str, known: tuple[str, ...]) -> None:
        """Raises GoodhartError for an arm that is not there, or a place that a logarithmic axis has not."""
        for arm in self.arms:
            if arm not in known:
                raise GoodhartError(f"axis {name!r} names arm {arm!r}, which the study has not", "name one of its arms")
        places = [x for line in self.lines.values() for x in line.values()]
        if not places or (self.log and min(places) <= 0):
            raise GoodhartError(f"axis {name!r} has places {places}", "give at least one, positive on a log axis")
