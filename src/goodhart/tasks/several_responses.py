"""Layouts with several responses to a prompt in each row, and the rule by which they become comparisons of two."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from goodhart.randomness import key
from goodhart.tasks.pair_rules import Rule
from goodhart.tasks.preference import Message, prompt_text
from goodhart.tasks.preference_rows import (
    Comparison,
    Row,
    Unusable,
    messages_in,
    prompt_in,
    records_in,
    text_of,
    wrong_type,
)

_TEXTS = ("response", "text", "answer", "content", "value", "completion")
"""What a record calls the text of a response."""
_RATINGS = ("overall_score", "rating", "score", "reward")
"""What a record calls its rating; the first that it has is read."""
_YES_NO = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


class Alike(Unusable):
    """No two responses of a row are graded differently."""


@dataclass(frozen=True, slots=True)
class Graded:
    """What a row says of several responses, best where the grade is highest."""

    prompt: str | tuple[Message, ...]
    responses: tuple[str, ...]
    grades: tuple[float, ...]
    ungraded: int = 0
    """Further responses that nobody has graded."""


def read_ranks(row: Row) -> Graded:
    """`prompt`, `responses` and `ranks`: the smaller the rank, the better the response; equal ones are ties."""
    responses = _responses(row)
    return _graded(row, responses, [-rank for rank in _numbers(row, "ranks", len(responses))])


def read_ranking(row: Row) -> Graded:
    """`prompt`, `responses` and `ranking`: the responses' places in their list, from 0, the best one's first."""
    responses, order = _responses(row), row.values.get("ranking")
    places = list(order) if isinstance(order, list | tuple) else []
    if sorted(place for place in places if isinstance(place, int)) != list(range(len(responses))):
        wanted = f"the places 0 to {len(responses) - 1} of the responses, the best one's first"
        raise wrong_type(row, "ranking", order, f"{wanted} (what holds a rank for each is the column 'ranks')")
    return _graded(row, responses, [-float(places.index(place)) for place in range(len(responses))])


def read_ratings(row: Row) -> Graded:
    """`prompt`, `responses` and `ratings`: the higher the rating, the better the response."""
    responses = _responses(row)
    return _graded(row, responses, _numbers(row, "ratings", len(responses)))


def read_ultrafeedback(row: Row) -> Graded:
    """`instruction` and `completions`, records of a response with its rating (UltraFeedback) or its rank (Nectar)."""
    completions = _list(row, "completions")
    responses = [_record_text(row, "completions", each) for each in completions]
    grades = [_record_grade(row, each) for each in completions]
    return _graded(row, responses, grades, "instruction")


def read_marks(row: Row) -> Graded:
    """`prompt`, `completion` and `label` of all rows with one prompt (`by_prompt`): good is over bad."""
    marks = [read_mark(each) for each in _marked(row)]
    return _graded(row, [mark.first for mark in marks], [mark.label for mark in marks])


def read_mark(row: Row) -> Comparison:
    """`prompt`, `completion` and `label` of one row: a response without a second one, good or bad.

    A completion is text or one assistant message. Raises Unusable for other messages.
    """
    completion = row.values.get("completion")
    if not isinstance(completion, str):
        turns = messages_in(row, "completion")
        if [turn.role for turn in turns] != ["assistant"]:
            raise Unusable("a completion that is not one assistant message")
        completion = turns[0].content
    return Comparison(prompt_in(row, "prompt"), completion, None, _mark(row))


def by_prompt(rows: Iterable[Row]) -> list[Row]:
    """A row for each prompt of marks, in the order of their first rows, which holds all of its rows as `completion`.

    A row that lacks prompt, completion or label stays by itself, and is counted as such later.
    """
    result: list[Row] = []
    together: dict[tuple[bool, str], list[Row]] = {}
    for row in rows:
        if not _is_whole(row):
            result.append(row)
            continue
        name = _name(row)
        if name not in together:
            together[name] = []
            result.append(replace(row, values={**row.values, "completion": together[name]}))
        together[name].append(row)
    return result


def _name(row: Row) -> tuple[bool, str]:
    """What rows of one prompt have in common."""
    prompt = row.values["prompt"]
    return isinstance(prompt, str), str(prompt)


def _is_whole(row: Row) -> bool:
    return all(row.values.get(column) is not None for column in ("prompt", "completion", "label"))


def mostly_alone(rows: Iterable[Row]) -> bool:
    """Whether more than half of some rows of marks stand under prompts whose responses all bear one mark."""
    number, marks = 0, Counter[tuple[int, float]]()
    for row in rows:
        number += 1
        if _is_whole(row):
            marks[hash(_name(row)), _mark(row)] += 1
    alone = sum(count for (name, mark), count in marks.items() if (name, 1 - mark) not in marks)
    return 2 * alone > number


def _marked(row: Row) -> Sequence[Row]:
    """The rows of a prompt of `by_prompt`."""
    rows = row.values["completion"]
    assert isinstance(rows, list)
    return [each for each in rows if isinstance(each, Row)]


LONE = ("good responses to prompts without a bad one", "bad responses to prompts without a good one")
"""What makes no pair, in words."""


def lone_marks(row: Row) -> Counter[str]:
    """How many good and bad responses there are to a prompt of `by_prompt` that makes no pair, in words."""
    marks = Counter(_mark(each) for each in _marked(row))
    return Counter({words: marks[mark] for words, mark in zip(LONE, (1.0, 0.0), strict=True)})


def _list(row: Row, column: str) -> Sequence[object]:
    value = records_in(row.values.get(column))
    if not isinstance(value, list | tuple):
        raise wrong_type(row, column, value, "a list of responses")
    return value


def _responses(row: Row) -> list[str]:
    """The texts of `responses`, each a string or a record with one."""
    responses = _list(row, "responses")
    return [each if isinstance(each, str) else _record_text(row, "responses", each) for each in responses]


def _record_text(row: Row, column: str, record: object) -> str:
    names = [name for name in _TEXTS if isinstance(record, Mapping) and name in record]
    if not isinstance(record, Mapping) or not names:
        raise wrong_type(row, column, record, f"a response (a record with {', '.join(_TEXTS[:3])} or the like)")
    return text_of(row, column, record[names[0]])


def _record_grade(row: Row, record: object) -> float | None:
    """A record's rating, or its rank turned round; the rows of a data set have one of the two."""
    assert isinstance(record, Mapping)
    for name in _RATINGS:
        if name in record:
            return _number(row, "completions", record[name])
    if "rank" in record:
        rank = _number(row, "completions", record["rank"])
        return None if rank is None else -rank
    raise wrong_type(row, "completions", record, f"a record with a rating ({', '.join(_RATINGS)}) or a rank")


def _numbers(row: Row, column: str, number: int) -> list[float]:
    """A grade for each response, NaN where there is none."""
    value = row.values.get(column)
    if not isinstance(value, list | tuple) or len(value) != number:
        raise wrong_type(row, column, value, f"a list of numbers, one for each of the {number} responses")
    numbers = [_number(row, column, each) for each in value]
    return [math.nan if each is None else each for each in numbers]


def _number(row: Row, column: str, value: object) -> float | None:
    """A grade; None where there is none, which data also write as "N/A" and NaN."""
    if value is None or (isinstance(value, str) and value.strip().casefold() in ("", "n/a", "na", "none", "nan")):
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or math.isinf(number):
        raise wrong_type(row, column, value, "a number")
    return None if math.isnan(number) else number


def _mark(row: Row) -> float:
    """1 for a good response, 0 for a bad one."""
    value = row.values.get("label")
    mark = _YES_NO.get(value.strip().casefold()) if isinstance(value, str) else value
    if not isinstance(mark, int | float) or mark not in (0, 1):
        raise wrong_type(row, "label", value, "true or false: whether the completion is good")
    return float(mark)


def _graded(row: Row, responses: Sequence[str], grades: Sequence[float | None], prompt: str = "prompt") -> Graded:
    """The graded ones of the responses. Raises Unusable if there are fewer than two of them."""
    pairs = zip(responses, grades, strict=True)
    kept = [(text, grade) for text, grade in pairs if grade is not None and not math.isnan(grade)]
    if len(kept) < 2:
        raise Alike("fewer than two responses with a grade")
    texts, numbers = zip(*kept, strict=True)
    return Graded(prompt_in(row, prompt), texts, numbers, len(responses) - len(kept))


def comparisons(graded: Graded, rule: Rule) -> list[Comparison]:
    """The pairs that a rule makes of a row's responses, the better one first.

    What is drawn depends on the texts alone, never on the order of rows or responses. Raises Unusable where a rule
    that wants a better and a worse one finds all alike.
    """
    prompt = prompt_text(graded.prompt)
    ordered = sorted(
        zip(graded.responses, graded.grades, strict=True), key=lambda each: (-each[1], _draw(prompt, each[0]))
    )
    if rule == "all":
        return [
            Comparison(graded.prompt, first, second, 1.0 if better > worse else 0.5)
            for (first, better), (second, worse) in combinations(ordered, 2)
        ]
    (best, highest), lowest = ordered[0], ordered[-1][1]
    if highest == lowest:
        raise Alike("all responses graded alike")
    worse = [text for text, grade in ordered if (grade == lowest if rule == "best and worst" else grade < highest)]
    return [Comparison(graded.prompt, best, min(worse, key=lambda text: _draw(prompt, text, "second")), 1.0)]


def _draw(prompt: str, response: str, place: str = "first") -> int:
    return key(0, "pairs of several responses", place, prompt, response)
