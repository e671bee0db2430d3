"""Layouts with one comparison in each row, and how each becomes one."""

from __future__ import annotations

from collections.abc import Mapping

from goodhart.tasks.preference import Message
from goodhart.tasks.preference_rows import Comparison, Row, Unusable, messages_in, records_in, text_of, wrong_type

ANSWER = "\n\nAssistant:"
"""Where an answer starts in a dialogue written as one string (Bai et al. 2022, arXiv 2204.05862)."""
QUESTION = "\n\nHuman:"
"""Where the other side's turn starts there."""
TLDR_POST = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
"""The prompt for a Reddit post (Stiennon et al. 2020, arXiv 2009.01325, appendix)."""
TLDR_ARTICLE = "Article:\n\n{article}\n\nTL;DR:"
"""The prompt for a news article in the same data."""
WINNERS = {"model_a": 1.0, "model_b": 0.0} | dict.fromkeys(
    ("tie", "tie (bothbad)", "tie (both bad)", "tie (inconsistent)", "both_bad"), 0.5
)
"""What Chatbot Arena's `winner` says about the first conversation (arXiv 2306.05685)."""


def _last_answers(first: tuple[Message, ...], second: tuple[Message, ...]) -> tuple[tuple[Message, ...], str, str]:
    """(common prompt, first answer, second answer) of two conversations that part at their last message."""
    if not first or not second or first[-1].role != "assistant" or second[-1].role != "assistant":
        raise Unusable("a conversation that does not end with an assistant message")
    if first[:-1] != second[:-1]:
        raise Unusable("no common prompt: the conversations part before the last answer")
    return first[:-1], first[-1].content, second[-1].content


def read_text(row: Row) -> Comparison:
    """`prompt`, `chosen` and `rejected` as plain text, taken as they are."""
    values = row.values
    texts = [text_of(row, column, values.get(column)) for column in ("prompt", "chosen", "rejected")]
    return Comparison(texts[0], texts[1], texts[2], 1.0)


def read_chat(row: Row) -> Comparison:
    """`chosen` and `rejected` as chat messages, after a `prompt` or with the prompt inside them.

    A prompt that is a list is put before messages that do not begin with it; one that is plain text becomes
    a user turn before a bare answer, and is otherwise only a copy of what the messages hold.
    """
    chosen, rejected = messages_in(row, "chosen"), messages_in(row, "rejected")
    prompt = row.values.get("prompt")
    if isinstance(prompt, str):
        if len(chosen) == 1:
            user = (Message("user", prompt),)
            chosen, rejected = user + chosen, user + rejected
    elif prompt is not None:
        turns = messages_in(row, "prompt")
        chosen, rejected = (
            answer if len(answer) > 1 and answer[: len(turns)] == turns else turns + answer
            for answer in (chosen, rejected)
        )
    return Comparison(*_last_answers(chosen, rejected), label=1.0)


def read_sharegpt(row: Row) -> Comparison:
    """`conversations` of {from, value}, and what may follow: `chosen` and `rejected`, one message each or more."""
    turns = messages_in(row, "conversations")
    chosen, rejected = (turns + messages_in(row, column) for column in ("chosen", "rejected"))
    return Comparison(*_last_answers(chosen, rejected), label=1.0)


def read_dialogue(row: Row) -> Comparison:
    r"""`chosen` and `rejected` as whole dialogues ("\n\nHuman: … \n\nAssistant: …"), Anthropic HH's layout.

    The prompt is their common beginning, cut after its last "\n\nAssistant:".
    """
    chosen, rejected = (text_of(row, column, row.values.get(column)) for column in ("chosen", "rejected"))
    cut = chosen.rfind(ANSWER)
    while cut >= 0 and not rejected.startswith(chosen[: cut + len(ANSWER)]):
        cut = chosen.rfind(ANSWER, 0, cut)
    if cut < 0:
        raise Unusable("no common prompt: the dialogues share no Assistant turn")
    cut += len(ANSWER)
    prompt, first, second = chosen[:cut], chosen[cut:], rejected[cut:]
    if QUESTION in first or QUESTION in second:
        raise Unusable("no common prompt: the dialogues part before the last answer")
    return Comparison(prompt, first, second, 1.0)


def read_tldr(row: Row) -> Comparison:
    """`info`, `summaries` and `choice`: a post or article, two summaries, and the index of the better one.

    A summary gets exactly one space before it, since the prompt ends in "TL;DR:" and the raw texts are not
    consistent in this.
    """
    info, summaries, choice = row.values.get("info"), records_in(row.values.get("summaries")), row.values.get("choice")
    if not isinstance(info, Mapping):
        raise wrong_type(row, "info", info, "a record with post or article")
    if not isinstance(summaries, list | tuple) or len(summaries) != 2:
        raise wrong_type(row, "summaries", summaries, "a list of two summaries")
    if choice not in (0, 1):
        raise wrong_type(row, "choice", choice, "0 or 1")
    texts: list[str] = []
    for summary in summaries:
        if not isinstance(summary, Mapping):
            raise wrong_type(row, "summaries", summary, "a record with text")
        texts.append(text_of(row, "summaries", summary.get("text")).strip())
    spaced = [f" {text}" if text else "" for text in texts]
    return Comparison(_tldr_prompt(row, info), spaced[0], spaced[1], 1.0 if choice == 0 else 0.0)


def _tldr_prompt(row: Row, info: Mapping[object, object]) -> str:
    if info.get("post"):
        fields = {name: info.get(name) or "" for name in ("subreddit", "title", "post")}
        return TLDR_POST.format(**{name: text_of(row, "info", value).strip() for name, value in fields.items()})
    if info.get("article"):
        return TLDR_ARTICLE.format(article=text_of(row, "info", info["article"]).strip())
    raise Unusable("no post and no article in column 'info'")


def read_battle(row: Row) -> Comparison:
    """`conversation_a`, `conversation_b` and `winner`, Chatbot Arena's layout.

    The vote is about whole conversations. So one whose earlier answers differ is left out (and counted), and
    its vote is not given to first answers that nobody judged by themselves.
    """
    winner = row.values.get("winner")
    label = WINNERS.get(winner) if isinstance(winner, str) else None
    if label is None:
        raise wrong_type(row, "winner", winner, f"one of {', '.join(WINNERS)}")
    first, second = messages_in(row, "conversation_a"), messages_in(row, "conversation_b")
    return Comparison(*_last_answers(first, second), label=label)
