"""What a study could show, and what it would cost: the forecast that `goodhart power` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from goodhart import functions
from goodhart.analysis.hypotheses import Contrast, League, implied
from goodhart.analysis.noise import Found
from goodhart.analysis.power import ERROR, Design, forecast, known, sides
from goodhart.cells.cell import closure
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


def preface(study: Study, noise: Known) -> list[str]:
    """What the numbers below stand on."""
    size, number_of = design_of(study), len(deciding(study))
    lines = [
        f"{study.name}: {size.seeds} seed{'s' * (size.seeds > 1)}, {size.prompts} held-out prompts with "
        f"{size.responses} response{'s' * (size.responses > 1)} each, "
        f"{number_of} deciding contrast{'s' * (number_of != 1)}",
        f"noise as in {noise.origin}",
        "sees: the smallest difference that is found with 80% power, by a test alone (5%) and by one of all deciding "
        "contrasts (Holm's method at worst)",
    ]
    if study.looks:
        lines.append(
            f"at the last look alone, which has {study.looks.shares[-1]:g} of the error; the looks before it add to it"
        )
    if study.league and (seen := ranking_sees(study, study.league, noise)) is not None:
        lines.append(
            f"the league tells two of {len(study.league.of(list(study.arms)).methods)} methods apart in its ranks "
            f"where their means differ by {number(seen)}, with the same power"
        )
    if noise.single:
        lines.append(
            "the noise was measured with one response to each prompt, so all that responses add counts as the seeds' "
            "and prompts' interaction: what more responses bring is not in these numbers"
        )
    return lines


def deciding(study: Study) -> list[Contrast]:
    """The contrasts that decide the study's hypotheses, said or implied."""
    hypotheses = study.hypotheses or implied(list(study.arms))
    return [contrast for each in hypotheses.values() for contrast in each.contrasts if contrast.decides]


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


def contrast_grid(study: Study, noise: Known) -> Grid:
    """What each deciding contrast can see with the study as written."""
    alone, worst = errors(study)
    rows = [
        (
            named(contrast),
            number(visible_in(study, contrast, noise, alone)),
            number(visible_in(study, contrast, noise, worst)),
        )
        for contrast in deciding(study)
    ]
    header = ("contrast", "sees, alone", "sees, as one of all")
    return Grid("What the study could show, with 80% power", header, tuple(rows))


def design_grid(study: Study, noise: Known, minutes: Callable[[Study], float]) -> Grid | None:
    """Seeds, prompts and responses with what the hardest contrast of win rates sees, and the cost from nothing.

    None where the noise of no such contrast is known.
    """
    _, worst = errors(study)
    seen = [(visible_in(study, each, noise, worst), each) for each in deciding(study) if each.in_win_rate]
    hardest = max(((value, each) for value, each in seen if value is not None), key=lambda pair: pair[0], default=None)
    if hardest is None:
        return None
    rows = [_design_row(each, study, hardest[1], noise, minutes) for each in designs(study)]
    header = ("seeds", "prompts", "responses", "sees, alone", "sees, as one of all", "minutes", "")
    return Grid(f"Other sizes, by {named(hardest[1])}", header, tuple(rows))


def _design_row(
    changed: Study, study: Study, contrast: Contrast, noise: Known, minutes: Callable[[Study], float]
) -> tuple[str, ...]:
    size = design_of(changed)
    alone, worst = (number(visible_in(changed, contrast, noise, error)) for error in errors(changed))
    as_written = "as written" if size == design_of(study) else NONE
    sizes = (str(size.seeds), str(size.prompts), str(size.responses))
    return (*sizes, alone, worst, number(minutes(changed), 1), as_written)


def designs(study: Study) -> list[Study]:
    """The study at other sizes and at its own, all of them looked at once."""
    own = design_of(study)
    seeds = sorted({*SEEDS, own.seeds})
    prompts = sorted({max(own.prompts // 2, 2), own.prompts, 2 * own.prompts})
    responses = sorted({*RESPONSES, own.responses})
    return [resized(study, *size) for size in product(seeds, prompts, responses)]


def resized(study: Study, seeds: int, prompts: int, responses: int) -> Study:
    """The study with so many seeds, held-out prompts and responses, looked at once."""
    listed = tuple(range(max(study.seeds, default=0) + seeds))
    first = (*study.seeds, *(seed for seed in listed if seed not in study.seeds))[:seeds]
    measured = replace(study.measurement, responses=responses)
    task = replace(study.task, evaluation=prompts)
    return replace(study, seeds=first, looks=None, task=task, measurement=measured)


def against_found(own: Known, general: Known, asked: Sequence[Contrast]) -> Grid | None:
    """Forecast standard errors over those of the finished study; None where it has none of the contrasts."""

    def over(each: Found, noise: Known) -> str:
        variances = known(noise.variances, each.contrast)
        return number(each.ratio(variances) if variances else None, 2)

    rows = [
        (named(each.contrast), number(each.interval.se, 4), over(each, own), over(each, general))
        for each in own.found
        if each.contrast in asked
    ]
    header = ("contrast", "standard error found", "forecast over it, from these rows", "from what ships")
    return Grid("Forecast against found", header, tuple(rows)) if rows else None


def clock(root: Path, workers: Workers) -> Callable[[Study], float]:
    """What gives the minutes that a study takes from nothing, all its seeds made, on this machine."""
    rate = speed(root, keep=False)

    def minutes(study: Study) -> float:
        costs = Costs.of(study, rate)
        cells = closure(build_graph(study).targets)
        return duration(cells, (), costs.seconds, workers.number, costs.parts) / 60

    return minutes


def said(study: Study, noise: Known, general: Known, minutes: Callable[[Study], float]) -> tuple[list[str], list[Grid]]:
    """The sentences and the tables of a forecast."""
    grids = [
        contrast_grid(study, noise),
        design_grid(study, noise, minutes),
        against_found(noise, general, deciding(study)),
    ]
    return preface(study, noise), [grid for grid in grids if grid]
