"""Whether a method's mean step can be computed by enumeration. Nothing here imports torch."""

from __future__ import annotations

from goodhart.alignment.method import Method
from goodhart.errors import GoodhartError
from goodhart.functions import is_function

MOST = 1024
"""Tuples of responses to a prompt at most."""


def why_sampled(method: Method, responses: int) -> str:
    """Why a method's step is a sample also where all else is enumerated; empty where it is not.

    `responses` is how many there are to a prompt. Fixed data are a population themselves.
    """
    if method.source != "policy":
        return ""
    people = [writer for writer in method.drawn if writer in ("first", "second")]
    if people:
        return "it draws responses of the data beside samples"
    if method.buffer:
        return "it learns from what it drew before"
    if method.selection != "all":
        return f"it selects among {len(method.drawn)} samples"
    if method.mode == "bernoulli" and method.kind.supervision in ("label", "mark"):
        return "its labels are coins"
    if any(term.law == "chosen" for term in method.terms):
        return "it has a term on the preferred of two samples"
    if responses ** len(method.drawn) > MOST:
        return f"{responses} responses have {responses ** len(method.drawn):,} tuples of {len(method.drawn)}"
    return ""


def refuse_in_tables(name: str, method: Method) -> None:
    """Raises GoodhartError for a method that has no meaning where responses are one token of a table."""
    where = f"arm {name!r}" + (f" ({method.name})" if method.name else "")
    if "prefix" in method.parameters:
        raise GoodhartError(
            f"{where} forces prefixes, and the responses of a tabular world are one token, of which none is a prefix",
            "take another method, for example ppo, which dr-po is without prefixes",
        )
    if method.labeller == "itself":
        raise GoodhartError(
            f"{where} prices the length of its own responses, and in a tabular world all are one token",
            "take another method, for example online-dpo",
        )
    if is_function(method.labeller):
        raise GoodhartError(
            f"{where} is labelled by {method.labeller}, which reads text, and a tabular world has none",
            "take labeller: proxy",
        )
    if "replay" in method.parameters:
        raise GoodhartError(
            f"{where} replays pairs of the data among its own, and a step in a tabular world is of one kind of pairs",
            "take a method without replay, for example online-ipo",
        )
    if method.merge != "none":
        raise GoodhartError(
            f"{where} merges runs in weight space, and a table has no layers",
            "take another method, or average: true",
        )
    if method.reference in ("prior", "external"):
        what = "the policy without the prompt" if method.reference == "prior" else "another variant's SFT policy"
        raise GoodhartError(
            f"{where} has the reference {method.reference!r}, {what}, and a tabular world has none",
            "take reference: sft, moving or none",
        )
    if method.source not in ("policy", "data"):
        raise GoodhartError(
            f"{where} has source {method.source!r}, what other runs wrote, and tabular runs keep no responses",
            "take source: policy or data",
        )
