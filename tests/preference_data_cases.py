"""Rows of every layout beside the comparisons that they stand for, and a writer for every kind of file."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.tasks.preference import Message

KINDS = ("jsonl", "json", "jsonl.gz", "json.gz", "parquet", "csv", "tsv.gz")
HTML = '<script>alert("é")</script>\n\u2028日本'


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    lines = ".jsonl" in path.name
    if ".csv" in path.name or ".tsv" in path.name:
        data = table(rows, "\t" if ".tsv" in path.name else ",").encode()
        path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
        return path
    text = "\n".join(json.dumps(r, ensure_ascii=False) for r in rows) if lines else json.dumps(rows, indent=1)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def table(rows, separator):
    """The rows below a header; what is no text is written as JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["prompt"]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    cells = [[row.get(name) for name in names] for row in rows]
    writer.writerows([names, *([_cell(value) for value in row] for row in cells)])
    return out.getvalue()


def _cell(value):
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def said(speaker, text):
    return {"from": speaker, "value": text}


def hh(*turns):
    return "".join(f"\n\n{'Human' if i % 2 == 0 else 'Assistant'}: {turn}" for i, turn in enumerate(turns))


def tldr(choice, first=" short", second="long", **info):
    record = {"id": "t3_1", "post": None, "title": None, "subreddit": None, "site": None, "article": None} | info
    summaries = [{"text": t, "policy": "sup2", "note": "n"} for t in (first, second)]
    return {"info": record, "summaries": summaries, "choice": choice, "worker": "w", "batch": "b", "split": "train"}


def battle(winner, a, b, question="q"):
    return {"question_id": question, "model_a": "m", "model_b": "n", "winner": winner} | {
        "conversation_a": a,
        "conversation_b": b,
    }


def turns(*texts):
    return tuple(Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts))


CASES = {
    "text": (
        [{"prompt": HTML, "chosen": " good", "rejected": "bad\n"}, {"prompt": "p", "chosen": "x", "rejected": "y"}],
        [(HTML, " good", "bad\n", 1.0), ("p", "x", "y", 1.0)],
    ),
    "chat": (
        [
            {"prompt": [user("p")], "chosen": [answer(HTML)], "rejected": [answer("n")]},
            {"prompt": [user("a"), answer("b"), user("c")], "chosen": [answer("x")], "rejected": [answer("y")]},
            {"prompt": [user("p")], "chosen": [user("p"), answer("s")], "rejected": [user("p"), answer("t")]},
        ],
        [
            (turns("p"), HTML, "n", 1.0),
            (turns("a", "b", "c"), "x", "y", 1.0),
            (turns("p"), "s", "t", 1.0),
        ],
    ),
    "implicit-chat": (
        [
            {"chosen": [user("p"), answer("x")], "rejected": [user("p"), answer("y")]},
            {
                "chosen": [user("a"), answer("b"), user("c"), answer("d")],
                "rejected": [user("a"), answer("b"), user("c"), answer("e")],
            },
        ],
        [(turns("p"), "x", "y", 1.0), (turns("a", "b", "c"), "d", "e", 1.0)],
    ),
    "dialogue": (
        [
            {"chosen": hh("hi", "yes"), "rejected": hh("hi", "yeah")},
            {"chosen": hh("hi", "a", HTML, "b"), "rejected": hh("hi", "a", HTML, "c")},
        ],
        [
            (hh("hi") + "\n\nAssistant:", " yes", " yeah", 1.0),
            (hh("hi", "a", HTML) + "\n\nAssistant:", " b", " c", 1.0),
        ],
    ),
    "tldr": (
        [
            tldr(1, post=" I did. \n", title="T {x}", subreddit="tifu"),
            tldr(0, article="News."),
        ],
        [
            ("SUBREDDIT: r/tifu\n\nTITLE: T {x}\n\nPOST: I did.\n\nTL;DR:", " short", " long", 0.0),
            ("Article:\n\nNews.\n\nTL;DR:", " short", " long", 1.0),
        ],
    ),
    "battle": (
        [
            battle("model_a", [user("p"), answer("x")], [user("p"), answer("y")]),
            battle("model_b", [user("q"), answer("x")], [user("q"), answer("y")]),
            battle("tie", [user("r"), answer("x")], [user("r"), answer("y")]),
            battle("tie (bothbad)", [user("s"), answer(HTML)], [user("s"), answer("y")]),
        ],
        [
            (turns("p"), "x", "y", 1.0),
            (turns("q"), "x", "y", 0.0),
            (turns("r"), "x", "y", 0.5),
            (turns("s"), HTML, "y", 0.5),
        ],
    ),
    "sharegpt": (
        [
            {"conversations": [said("human", "p")], "chosen": said("gpt", HTML), "rejected": said("gpt", "n")},
            {
                "conversations": [said("system", "s"), said("human", "a"), said("gpt", "b"), said("human", "c")],
                "chosen": said("gpt", "x"),
                "rejected": said("gpt", "y"),
            },
        ],
        [
            (turns("p"), HTML, "n", 1.0),
            ((Message("system", "s"), *turns("a", "b", "c")), "x", "y", 1.0),
        ],
    ),
    "ranks": (
        [
            {"prompt": "p", "responses": ["b", HTML, "c"], "ranks": [2, 1, 3]},
            {"prompt": "q", "responses": ["x", "y"], "ranks": [0, 1]},
        ],
        [("p", HTML, "c", 1.0), ("q", "x", "y", 1.0)],
    ),
    "ranking": (
        [
            {"prompt": "p", "responses": ["b", HTML, "c"], "ranking": [1, 0, 2]},
            {"prompt": "q", "responses": ["x", "y"], "ranking": [1, 0]},
        ],
        [("p", HTML, "c", 1.0), ("q", "y", "x", 1.0)],
    ),
    "ratings": (
        [
            {"prompt": "p", "responses": ["b", HTML, "c"], "ratings": [4, 5, 1]},
            {"prompt": "q", "responses": ["x", "y"], "ratings": [1.5, 2]},
        ],
        [("p", HTML, "c", 1.0), ("q", "y", "x", 1.0)],
    ),
    "ultrafeedback": (
        [
            {
                "source": "s",
                "instruction": HTML,
                "completions": [
                    {"model": "m", "response": "b", "overall_score": 4.0},
                    {"model": "n", "response": "a", "overall_score": 7.5},
                    {"model": "o", "response": "c", "overall_score": 1.0},
                ],
            },
        ],
        [(HTML, "a", "c", 1.0)],
    ),
    "marks": (
        [
            {"prompt": "p", "completion": "x", "label": False},
            {"prompt": "p", "completion": HTML, "label": True},
        ],
        [("p", HTML, "x", 1.0)],
    ),
}


def content(example):
    return (example.prompt, example.first, example.second, example.label)
