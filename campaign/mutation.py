"""Changes what decides results, a little at a time, and counts how often the tests notice.

`python -m campaign.mutation [FILE …] [--sample N] [--minutes M]` writes `mutation.json` (the table) and
`survivors.json` (what no test noticed) into the work folder. A mutant is tried on the tests that run its line, the
fastest first, and then on the others of its test files, as long as these take at most `SECONDS` together.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from campaign.mutant_tests import REPOSITORY, Child, attempt, heat, measure
from campaign.mutants import Mutant, mutants

SUBJECTS = {
    "alignment/losses": ("losses", "loss_forms"),
    "alignment/labellers": ("alignment_data", "label_noise", "training_loop"),
    "alignment/sources": ("alignment_data", "policy_source", "buffer", "training_loop"),
    "evaluation/kl": ("kl",),
    "evaluation/best_of": ("best_of",),
    "evaluation/verdicts": ("measurement",),
    "sampling/keyed": ("keyed_by_hand", "mixture", "sampler"),
    "training/alignment": ("step_by_hand", "training_loop"),
    "training/optimiser": ("optimiser", "training_loop"),
    "training/preference": ("judgement", "fit_by_hand", "preference_model"),
    "training/schedule": ("training_loop",),
    "models/preference": ("fit_by_hand", "preference_model"),
    "models/tree": ("tree", "fit_by_hand", "logprobs"),
    "models/tree_attention": ("tree", "fit_by_hand", "logprobs"),
    "models/last_layer": ("tree", "fit_by_hand", "logprobs"),
    "analysis/envelope": ("envelope", "crossfit", "analysis"),
    "analysis/gap": ("gap", "analysis", "contrasts"),
    "analysis/crossfit": ("crossfit", "analysis"),
    "analysis/interval": ("interval", "analysis", "contrasts"),
    "analysis/rulings": ("rulings", "looks"),
    "analysis/contrasts": ("contrast_errors", "contrasts"),
    "analysis/looks": ("looks", "rulings"),
    "tasks/reward": ("rule",),
    "cells/store": ("store",),
    "randomness": ("randomness",),
}
"""The files of the package that decide results, and the test files of each."""

SECONDS = 40.0
"""How long a mutant's tests may take by what they took without it."""

WANTED = 0.9
"""The share of mutants that tests must notice, in every file."""

EQUIVALENT = Path(__file__).with_name("equivalent.toml")


@dataclass(slots=True)
class Subject:
    """A file, the tests that can be run on it, and its mutants."""

    name: str
    source: str
    chosen: list[Mutant]
    every: int
    """Mutants that could be made; those chosen are a sample of them."""
    equivalent: set[tuple[str, str, str]]
    tests: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    ends: Counter[str] = field(default_factory=Counter[str])
    survivors: list[Mutant] = field(default_factory=list[Mutant])
    stopped: int = 0
    """Mutants that are noticed because they never end, take too much memory or crash the process."""

    @property
    def path(self) -> Path:
        """Where the file is."""
        return REPOSITORY / "src" / "goodhart" / f"{self.name}.py"

    def tests_of(self, mutant: Mutant) -> tuple[list[str], float]:
        """The tests that it is tried on, in their order, and how long they take without it."""

        def key(item: tuple[str, dict[str, Any]]) -> tuple[bool, float]:
            return mutant.line not in item[1]["lines"].get(str(self.path), ()), item[1]["seconds"]

        passing = [item for item in self.tests.items() if item[1]["outcome"] == "passed"]
        found, total = list[str](), 0.0
        for name, seen in sorted(passing, key=key):
            if total + seen["seconds"] <= SECONDS:
                found.append(name)
                total += seen["seconds"]
        return found, total

    @property
    def line(self) -> dict[str, Any]:
        """A line of the table."""
        count = {name: self.ends[name] for name in ("killed", "equivalent", "survived", "not tried")}
        judged = count["killed"] + count["survived"]
        share = count["killed"] / judged if judged else 1.0
        size = {"possible": self.every, "tried": self.ends.total() - count["not tried"], "stopped": self.stopped}
        return {"file": self.name, **size, **count, "share": share}


def subject(name: str, sample: int, seed: int) -> Subject:
    """A file with the mutants that are tried; which ones is keyed by the seed and the file's name."""
    path = REPOSITORY / "src" / "goodhart" / f"{name}.py"
    source = path.read_text(encoding="utf-8")
    every = mutants(source)
    chosen = random.Random(f"{seed}/{name}").sample(every, min(sample, len(every)))
    table = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")) if EQUIVALENT.is_file() else {}
    known = {(each["function"], each["before"], each["after"]) for each in table.get(name, [])}
    for function, before, after in known.difference((each.function, each.before, each.after) for each in every):
        print(f"{EQUIVALENT.name} names what is no mutant of {name}, {function}:\n  - {before}\n  + {after}")
    return Subject(name, source, chosen, len(every), known)


def test_files(name: str) -> list[str]:
    """The test files of a subject that there are."""
    paths = [f"tests/test_{each}.py" for each in SUBJECTS[name]]
    return [path for path in paths if (REPOSITORY / path).is_file()]


def _pool(jobs: Iterator[tuple[Any, Child]], workers: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """What each child found, as they end; at most this many at a time."""
    running: list[tuple[Any, Child]] = []
    left = True
    while running or left:
        while left and len(running) < workers:
            job = next(jobs, None)
            left = job is not None
            running += [job] if job is not None else []
        for job in list(running):
            found = job[1].ended()
            if found is not None:
                running.remove(job)
                yield job[0], found
        time.sleep(0.005)


def try_all(subjects: Sequence[Subject], workers: int, until: float) -> None:
    """Measure the tests, then try the mutants of all files in turn."""
    targets = [each.path for each in subjects]
    files = sorted({path for each in subjects for path in test_files(each.name)})
    for file, found in _pool(((file, measure(targets, file)) for file in files), workers):
        tests = found.get("tests", {})
        if not tests:
            raise RuntimeError(f"{file} did not run: {found['said']}")
        bad = [name for name, seen in tests.items() if seen["outcome"] == "failed"]
        print(f"{file}: {len(tests)} tests in {sum(seen['seconds'] for seen in tests.values()):.1f} s", flush=True)
        if bad:
            print(f"  not used, since they fail without a mutant: {', '.join(bad)}")
        for each in subjects:
            if file in test_files(each.name):
                each.tests |= tests
    whole = sum(len(each.chosen) for each in subjects)
    for number, ((each, mutant), found) in enumerate(_pool(_attempts(subjects, until), workers), 1):
        _judge(each, mutant, found)
        if number % 50 == 0:
            print(f"{number} of at most {whole} mutants tried", flush=True)


def _attempts(subjects: Sequence[Subject], until: float) -> Iterator[tuple[tuple[Subject, Mutant], Child]]:
    most = max(len(each.chosen) for each in subjects)
    for i in range(most):
        for each in subjects:
            if i >= len(each.chosen):
                continue
            mutant = each.chosen[i]
            tests, seconds = each.tests_of(mutant)
            if (mutant.function, mutant.before, mutant.after) in each.equivalent:
                each.ends["equivalent"] += 1
            elif time.monotonic() > until:
                each.ends["not tried"] += 1
            else:
                yield (each, mutant), attempt(each.path, mutant.applied(each.source), tests, seconds)


def _judge(each: Subject, mutant: Mutant, found: dict[str, Any]) -> None:
    survived = found["end"] == "passed"
    each.ends["survived" if survived else "killed"] += 1
    each.stopped += found["end"] in ("time", "crash")
    if survived:
        each.survivors.append(mutant)
        print(
            f"SURVIVED {each.name}:{mutant.line} {mutant.function}\n  - {mutant.before}\n  + {mutant.after}", flush=True
        )


def save(subjects: Sequence[Subject], work: Path, seconds: float, quick: bool) -> None:
    """The table as a part of the campaign, and the survivors beside it."""
    lines = [each.line for each in subjects]
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    outcome = {
        "part": "mutation",
        "tried": (
            "One small change at a time in the files that decide results (comparisons, arithmetic, conditions, numbers "
            "off by one or of the other sign, left-out statements and arguments), each against the tests of its file."
        ),
        "lines": [
            {
                "what": f"{line['file']}.py",
                "times": line["tried"],
                "right": line["killed"] + line["equivalent"],
                "happened": (
                    f"{line['killed']} noticed ({line['stopped']} of them by a crash or by no end), "
                    f"{line['survived']} not, {line['equivalent']} change nothing: {line['share']:.0%} of those that do"
                    + (f"; {line['not tried']} of the sample not tried in the time" if line["not tried"] else "")
                ),
            }
            for line in lines
        ],
        "faults": [f"{line['file']}.py: {line['share']:.0%} noticed" for line in lines if line["share"] < WANTED],
        "seconds": seconds,
        "quick": quick,
        "commit": commit.stdout.strip(),
    }
    work.mkdir(parents=True, exist_ok=True)
    (work / "mutation.json").write_text(json.dumps(outcome, indent=1), encoding="utf-8")
    survivors = {each.name: [asdict(mutant) for mutant in each.survivors] for each in subjects}
    (work / "survivors.json").write_text(json.dumps(survivors, indent=1), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if the tests notice too few of some file's mutants."""
    parser = argparse.ArgumentParser(prog="python -m campaign.mutation", description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(SUBJECTS)}; all by default")
    parser.add_argument("--sample", type=int, default=50, help="mutants tried of each file, at most")
    parser.add_argument("--minutes", type=float, default=18.0, help="what is not tried by then is counted so")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="decides which mutants are tried")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "campaign" / "work", help="where the tables go")
    given = parser.parse_args(arguments)
    if "goodhart" in sys.modules:  # what is imported already cannot be another for each child
        command = [sys.executable, "-m", "campaign.mutation", *(sys.argv[1:] if arguments is None else arguments)]
        return subprocess.run(command, cwd=REPOSITORY, check=False).returncode
    start = time.monotonic()
    subjects = [subject(name, given.sample, given.seed) for name in given.files or SUBJECTS]
    heat()
    try_all(subjects, given.workers, start + 60 * given.minutes)
    save(subjects, given.work, time.monotonic() - start, given.sample < 10)
    for line in (each.line for each in subjects):
        print(
            "{file:22} {possible:4} possible {tried:4} tried {killed:4} noticed {equivalent:3} equivalent "
            "{survived:3} survived {share:.0%}".format(**line)
        )
    return int(any(each.line["share"] < WANTED for each in subjects))


if __name__ == "__main__":
    raise SystemExit(main())
