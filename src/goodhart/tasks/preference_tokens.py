"""From a comparison's text to token ids: the one place where chat templates and special tokens are applied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from goodhart.errors import GoodhartError, is_out_of_memory
from goodhart.tasks.examples import batched
from goodhart.tasks.preference import Message, Preference

PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{{ {'user': 'Human', 'assistant': 'Assistant', 'system': 'System'}.get(m.role, m.role) }}:\n"
    "{{ m.content }}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""A chat template without special tokens, for base models: `task.template: plain`."""
FRAMED = ("dialogue", "tldr")
"""Layouts whose prompts are text that asks for its answer by itself, "Assistant:" or "TL;DR:" at its end."""
_BATCH = 512
"""Comparisons that the tokenizer gets at once: its threads share them."""

_IDS_ALONE = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}

Ids = tuple[int, ...]
"""Token ids."""


@runtime_checkable
class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    chat_template: Any

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens' text by role, `eos_token` for one."""
        ...

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token's text."""
        ...

    def convert_tokens_to_ids(self, tokens: str) -> Any:
        """A token's id."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], /, **options: Any) -> Any:
        """Turns as one text."""
        ...

    def __call__(self, text: list[str], /, **options: Any) -> Any:
        """The `input_ids` of texts."""
        ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """A comparison's token ids, or a mark's without a second response; each response ends with the end token."""

    id: str
    prompt: tuple[int, ...]
    first: tuple[int, ...]
    second: tuple[int, ...] | None
    label: float

    @property
    def responses(self) -> tuple[tuple[int, ...], ...]:
        """Both, or the one that is marked."""
        return (self.first,) if self.second is None else (self.first, self.second)


@dataclass(frozen=True, slots=True)
class Framing:
    """How a prompt becomes the text that a model reads."""

    template: str | None
    """The chat template; None is the tokenizer's own, if it has one."""
    chats: bool
    """Whether chat turns have a template at all."""
    wraps: bool
    """Whether a plain prompt is one user turn; else it is read as it stands."""
    adds_special: bool
    """Whether the tokenizer adds to a rendered prompt what it adds to any text, because the template has none of it."""

    @classmethod
    def of(cls, choice: str, tokenizer: ChatTokenizer, layout: str) -> Framing:
        """What `task.template` asks for: auto, none, plain or a Jinja template, for data of some layout."""
        plain = layout in FRAMED
        if choice == "auto":
            has_template = bool(tokenizer.chat_template)
            return cls(None, has_template, has_template and not plain, False)
        if choice == "none":
            return cls(None, False, False, False)
        template = PLAIN_TEMPLATE if choice == "plain" else choice
        return cls(template, True, not plain, choice == "plain")

    @property
    def words(self) -> str:
        """For people."""
        if not self.chats:
            return "none: prompts are read as they stand"
        named = (
            "Human and Assistant turns" if self.adds_special else "the study's" if self.template else "the tokenizer's"
        )
        return (
            f"{named}, {'for every prompt' if self.wraps else 'for chat turns; plain prompts are read as they stand'}"
        )


def render_prompt(prompt: str | tuple[Message, ...], tokenizer: ChatTokenizer, framing: Framing) -> str:
    """The prompt as the model reads it: chat turns through the template, plain text by the framing.

    Raises GoodhartError for chat turns without a template and for a template that is no Jinja, and jinja2's
    TemplateError if the template refuses them (some refuse a system turn).
    """
    from jinja2.exceptions import TemplateSyntaxError

    if isinstance(prompt, str):
        if not framing.wraps:
            return prompt
        prompt = (Message("user", prompt),)
    if not framing.chats:
        raise GoodhartError(
            "the prompts are chat messages, and there is no chat template for them",
            "set task.template=plain (turns of Human: and Assistant:) or to the path of a Jinja template, or take a "
            "chat model with task.template=auto",
        )
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
    try:
        return tokenizer.apply_chat_template(
            turns, chat_template=framing.template, add_generation_prompt=True, tokenize=False
        )
    except TemplateSyntaxError as fault:
        raise GoodhartError(
            f"the chat template is no Jinja: {' '.join(str(fault).split())} (line {fault.lineno})",
            "mend it, or set task.template to auto, none or plain",
        ) from fault


def encode_example(
    preference: Preference, tokenizer: ChatTokenizer, framing: Framing, max_prompt: int, max_response: int
) -> Encoded | str:
    """Token ids of a comparison, or the reason why it is filtered; nothing is ever cut.

    Lengths are in tokens, the response's end token included. A template's text is encoded without further
    special tokens, a plain prompt with those that the tokenizer adds (unless it begins with them), so there is
    one beginning token at most. Raises GoodhartError as `render_prompt` does, and without an end token.
    """
    return next(encode_examples([preference], tokenizer, framing, max_prompt, max_response))


def encode_examples(
    examples: Iterable[Preference], tokenizer: ChatTokenizer, framing: Framing, max_prompt: int, max_response: int
) -> Iterator[Encoded | str]:
    """What `encode_example` gives for each of many, in batches."""
    for encoded in tokenise(examples, tokenizer, framing):
        yield encoded if isinstance(encoded, str) else over_limit(encoded, max_prompt, max_response) or encoded


def tokenise(examples: Iterable[Preference], tokenizer: ChatTokenizer, framing: Framing) -> Iterator[Encoded | str]:
    """Token ids of comparisons of any length, or the reason why one has none, with few of them in memory at once.

    Raises GoodhartError as `encode_example` does.
    """
    end = tokenizer.special_tokens_map.get("eos_token")
    if end is None:
        raise GoodhartError("the tokenizer has no end token", "set its eos_token")
    special = _Special(tokenizer.special_tokens_map.get("bos_token"), tuple(tokenizer.all_special_tokens))
    for part in batched(examples, _BATCH):
        prompts = _prompt_ids([_rendered(each.prompt, tokenizer, framing, special) for each in part], tokenizer)
        responses = iter(_response_ids([text for each in part for text in each.responses], end, tokenizer))
        for example, prompt in zip(part, prompts, strict=True):
            first, second = next(responses), None if example.second is None else next(responses)
            yield _encoded(example, prompt, first, second)


def _encoded(example: Preference, prompt: Ids | str, first: Ids, second: Ids | None) -> Encoded | str:
    if isinstance(prompt, str):
        return prompt
    if not prompt:
        return "prompt of no tokens"
    if len(first) == 1 or (second is not None and len(second) == 1):
        return "response of no tokens"
    if first == second:
        return "responses of the same tokens"
    return Encoded(example.id, prompt, first, second, example.label)


def over_limit(encoded: Encoded, max_prompt: int | None, max_response: int | None) -> str | None:
    """The reason why a comparison is too long, or None."""
    if max_prompt is not None and len(encoded.prompt) > max_prompt:
        return f"prompt longer than {max_prompt} tokens"
    if max_response is not None and max(map(len, encoded.responses)) > max_response:
        return f"response longer than {max_response} tokens"
    return None


@dataclass(frozen=True, slots=True)
class _Special:
    """The text of a tokenizer's special tokens."""

    begin: str | None
    all: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A prompt's text, and whether the tokenizer adds its special tokens."""

    text: str
    adds_special: bool


def _rendered(
    prompt: str | tuple[Message, ...], tokenizer: ChatTokenizer, framing: Framing, special: _Special
) -> _Rendered | str:
    """The prompt's text, or the reason why it has none."""
    turns = (prompt,) if isinstance(prompt, str) else tuple(turn.content for turn in prompt)
    chat = framing.wraps or not isinstance(prompt, str)
    # in a rendered prompt it could not be told from the template's own, and would end or forge a turn
    if chat and any(token in turn for turn in turns for token in special.all):
        return "a chat message that holds one of the tokenizer's special tokens"
    try:
        text = render_prompt(prompt, tokenizer, framing)
    except GoodhartError:
        raise
    except Exception as fault:  # a template is a program of the tokenizer's author
        if is_out_of_memory(fault):  # else the pair would be left out, and the study would be another one
            raise
        return f"refused by the chat template: {' '.join(str(fault).split())[:200]}"
    begins = special.begin is not None and text.startswith(special.begin)
    return _Rendered(text, (framing.adds_special or not chat) and not begins)


def _prompt_ids(prompts: Sequence[_Rendered | str], tokenizer: ChatTokenizer) -> list[Ids | str]:
    result: list[Ids | str] = [each if isinstance(each, str) else () for each in prompts]
    for adds in (False, True):
        texts = {i: p.text for i, p in enumerate(prompts) if isinstance(p, _Rendered) and p.adds_special == adds}
        if texts:
            ids = tokenizer(list(texts.values()), add_special_tokens=adds, **_IDS_ALONE)["input_ids"]
            for i, each in zip(texts, ids, strict=True):
                result[i] = tuple(each)
    return result


def _response_ids(texts: Sequence[str], end: str, tokenizer: ChatTokenizer) -> list[Ids]:
    # a special token's name inside a response is text, or it would end the response early
    bare = [text.removesuffix(end) for text in texts]
    encoded = tokenizer(bare, add_special_tokens=False, split_special_tokens=True, **_IDS_ALONE)["input_ids"]
    closing = tokenizer.convert_tokens_to_ids(end)
    return [(*ids, closing) for ids in encoded]
