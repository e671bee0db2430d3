"""What a study could show, and what it would cost: the forecast that `goodhart power` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from goodhart import functions
from goodhart.analysis.hypotheses import Contrast, League
from goodhart.analysis.noise import FinishedContrast
from goodhart.analysis.power import ERROR, Design, forecast, known, sides
from goodhart.cells.cell import closure
from goodhart.compared import deciding, left_out
from goodhart.config import build
from goodhart.errors import GoodhartError
from goodhart.report.contents import read_contents
from goodhart.report.grid import NONE, Grid, number
from goodhart.report.hypotheses import named
from goodhart.studies.estimate import Costs, duration, speed
from goodhart.studies.graph import build_graph
from goodhart.studies.session import FUNCTIONS, Workers
from goodhart.studies.spec import Study
from goodhart.variances import Known

SEEDS = (3, 5, 8)
RESPONSES = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Seen:
    """The smallest value of a contrast that is found with 80% power; None where its noise is not known."""

    contrast: str
    alone: float | None
    """By a test alone."""
    as_one_of_all: float | None
    """By one of all deciding contrasts, at worst."""


@dataclass(frozen=True, slots=True)
class Size:
    """The same for the study at some size, with the minutes that it takes from nothing."""

    seeds: int
    prompts: int
    responses: int
    alone: float | None
    as_one_of_all: float | None
    minutes: float
    as_written: bool


@dataclass(frozen=True, slots=True)
class Sizes:
    """Some sizes, by one contrast."""

    contrast: str
    rows: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Against:
    """A contrast's standard error in the finished study, and forecasts of it over that; None where there is none."""

    contrast: str
    se: float
    by_these_rows: float | None
    by_what_ships: float | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The smallest difference of two methods that the ranks of a league show."""

    methods: int
    sees: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a study could show, and what it would cost."""

    study: str
    size: Design
    noise: str
    """Where it is from."""
    one_response: bool
    """Whether all of it was measured with one response to each prompt."""
    last_look: float | None
    """The share of the error that the last look has, of a study with looks."""
    ranking: Ranking | None
    contrasts: tuple[Seen, ...]
    sizes: Sizes | None
    against_found: tuple[Against, ...]
    left_out: tuple[str, ...]
    """Settings that a contrast does not look at."""


def study_of(folder: Path) -> Study:
    """The study that a folder's tables are of."""
    functions.recall(folder.resolve().parent.parent / FUNCTIONS)
    return build(Study, read_contents(folder).record["study"])


def refuse_world(study: Study) -> None:
    """Raises GoodhartError for a tabular study."""
    if study.world:
        raise GoodhartError(
            f"study {study.name!r} is of a finite world, whose measurement has no sampling error to plan for",
            "run it: it takes seconds; more world.prompts narrow its intervals",
        )


def preface(given: Forecast) -> list[str]:
    """What the numbers below stand on."""
    size, number_of = given.size, len(given.contrasts)
    lines = [
        f"{given.study}: {size.seeds} seed{'s' * (size.seeds > 1)}, {size.prompts} held-out prompts with "
        f"{size.responses} response{'s' * (size.responses > 1)} each, "
        f"{number_of} deciding contrast{'s' * (number_of != 1)}",
        f"noise as in {given.noise}",
        "sees: the smallest difference that is found with 80% power, by a test alone (5%) and by one of all deciding "
        "contrasts (Holm's method at worst)",
    ]
    if given.last_look is not None:
        lines.append(
            f"at the last look alone, which has {given.last_look:g} of the error; the looks before it add to it"
        )
    if given.ranking:
        lines.append(
            f"the league tells two of {given.ranking.methods} methods apart in its ranks where their means differ by "
            f"{number(given.ranking.sees)}, with the same power"
        )
    if given.one_response:
        lines.append(
            "the noise was measured with one response to each prompt, so all that responses add counts as the seeds' "
            "and prompts' interaction: what more responses bring is not in these numbers"
        )
    return [*lines, *given.left_out]


def grids(given: Forecast) -> list[Grid]:
    """The tables of a forecast."""
    sizes = [design_grid(given.sizes)] if given.sizes else []
    against = [against_grid(given.against_found)] if given.against_found else []
    return [contrast_grid(given.contrasts), *sizes, *against]


def design_of(study: Study, split: str = "held_out") -> Design:
    """The size of a study, at its last look where it has any."""
    seeds = study.looks.seeds[-1] if study.looks else len(study.seeds)
    prompts = study.task.evaluation if split == "held_out" else study.task.train_evaluation
    return Design(seeds, prompts, study.measurement.responses, len(study.arms))


def errors(study: Study) -> tuple[float, float]:
    """The error of a test that stands alone and, at worst, of one among all deciding contrasts; at the last look."""
    alone = ERROR * (study.looks.shares[-1] if study.looks else 1.0)
    return alone, alone / max(len(deciding(study)), 1)


def visible_in(study: Study, contrast: Contrast, noise: Known, error: float) -> float | None:
    """The smallest value of a contrast that the study sees at this error; None where its noise is not known."""
    variances = known(noise.variances, contrast)
    if variances is None:
        return None
    return forecast(variances, design_of(study, contrast.split), sides(contrast)).visible(error)


def ranking_sees(study: Study, league: League, noise: Known) -> float | None:
    """The smallest difference of two methods that the league's ranks show, as one of all its one-sided tests."""
    methods = league.of(list(study.arms)).methods
    tests = len(methods) * (len(methods) - 1)
    return visible_in(study, Contrast("gap at equal KL", methods[0], methods[1]), noise, 2 * ERROR / tests)


def seen_by(study: Study, noise: Known) -> tuple[Seen, ...]:
    """What each deciding contrast can see with the study as written."""
    alone, worst = errors(study)
    return tuple(
        Seen(named(each), visible_in(study, each, noise, alone), visible_in(study, each, noise, worst))
        for each in deciding(study)
    )


def contrast_grid(seen: Sequence[Seen]) -> Grid:
    """The same as a table."""
    rows = tuple((each.contrast, number(each.alone), number(each.as_one_of_all)) for each in seen)
    return Grid("What the study could show, with 80% power", ("contrast", "sees, alone", "sees, as one of all"), rows)


def sizes_of(study: Study, noise: Known, minutes: Callable[[Study], float]) -> Sizes | None:
    """Seeds, prompts and responses with what the hardest contrast of win rates sees, and the cost from nothing.

    None where the noise of no such contrast is known.
    """
    _, worst = errors(study)
    seen = [(visible_in(study, each, noise, worst), each) for each in deciding(study) if each.in_win_rate]
    hardest = max(((value, each) for value, each in seen if value is not None), key=lambda pair: pair[0], default=None)
    if hardest is None:
        return None
    by = hardest[1]
    return Sizes(named(by), tuple(_size(each, study, by, noise, minutes) for each in designs(study)))


def _size(changed: Study, study: Study, by: Contrast, noise: Known, minutes: Callable[[Study], float]) -> Size:
    design = design_of(changed)
    alone, worst = (visible_in(changed, by, noise, error) for error in errors(changed))
    as_written = design == design_of(study)
    return Size(design.seeds, design.prompts, design.responses, alone, worst, minutes(changed), as_written)


def design_grid(sizes: Sizes) -> Grid:
    """The sizes as a table."""
    rows = tuple(
        (
            *map(str, (each.seeds, each.prompts, each.responses)),
            *(number(each.alone), number(each.as_one_of_all), number(each.minutes, 1)),
            "as written" if each.as_written else NONE,
        )
        for each in sizes.rows
    )
    header = ("seeds", "prompts", "responses", "sees, alone", "sees, as one of all", "minutes", "")
    return Grid(f"Other sizes, by {sizes.contrast}", header, rows)


def designs(study: Study) -> list[Study]:
    """The study at other sizes and at its own, all of them looked at once."""
    design = design_of(study)
    seeds = sorted({*SEEDS, design.seeds})
    prompts = sorted({max(design.prompts // 2, 2), design.prompts, 2 * design.prompts})
    responses = sorted({*RESPONSES, design.responses})
    return [resized(study, *size) for size in product(seeds, prompts, responses)]


def resized(study: Study, seeds: int, prompts: int, responses: int) -> Study:
    """The study with so many seeds, held-out prompts and responses, looked at once."""
    listed = tuple(range(max(study.seeds, default=0) + seeds))
    first = (*study.seeds, *(seed for seed in listed if seed not in study.seeds))[:seeds]
    measured = replace(study.measurement, responses=responses)
    task = replace(study.task, evaluation=prompts)
    return replace(study, seeds=first, looks=None, task=task, measurement=measured)


def held_against(measured: Known, general: Known, asked: Sequence[Contrast]) -> tuple[Against, ...]:
    """Forecast standard errors over those of the finished study, for the contrasts that it has."""

    def over(each: FinishedContrast, noise: Known) -> float | None:
        variances = known(noise.variances, each.contrast)
        return each.ratio(variances) if variances else None

    return tuple(
        Against(named(each.contrast), each.interval.se, over(each, measured), over(each, general))
        for each in measured.contrasts
        if each.contrast in asked
    )


def against_grid(against: Sequence[Against]) -> Grid:
    """The same as a table."""
    header = ("contrast", "standard error found", "forecast over it, from these rows", "from what ships")
    rows = tuple(
        (each.contrast, number(each.se, 4), number(each.by_these_rows, 2), number(each.by_what_ships, 2))
        for each in against
    )
    return Grid("Forecast against found", header, rows)


def clock(root: Path, workers: Workers) -> Callable[[Study], float]:
    """What gives the minutes that a study takes from nothing, all its seeds made, on this machine."""
    rate = speed(root, keep=False)

    def minutes(study: Study) -> float:
        costs = Costs.of(study, rate)
        cells = closure(build_graph(study).targets)
        return duration(cells, (), costs.seconds, workers.number, costs.parts) / 60

    return minutes


def forecast_of(study: Study, noise: Known, general: Known, minutes: Callable[[Study], float]) -> Forecast:
    """What a study could show and what it would cost, as it is written and at other sizes."""
    ranking = None
    if study.league and (value := ranking_sees(study, study.league, noise)) is not None:
        ranking = Ranking(len(study.league.of(list(study.arms)).methods), value)
    return Forecast(
        study.name,
        design_of(study),
        noise.origin,
        noise.single,
        study.looks.shares[-1] if study.looks else None,
        ranking,
        seen_by(study, noise),
        sizes_of(study, noise, minutes),
        held_against(noise, general, deciding(study)),
        tuple(left_out(study)),
    )
