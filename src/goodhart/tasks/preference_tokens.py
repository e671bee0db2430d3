"""From a comparison's text to token ids: the one place where chat templates and special tokens are applied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from goodhart.errors import GoodhartError
from goodhart.tasks.preference import Message, Preference

PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{{ {'user': 'Human', 'assistant': 'Assistant', 'system': 'System'}.get(m.role, m.role) }}:\n"
    "{{ m.content }}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""A chat template without special tokens, for base models: a user sets it as the tokenizer's `chat_template`."""


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

    def __call__(self, text: str, /, **options: Any) -> Any:
        """A text's `input_ids`."""
        ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """A comparison's token ids; each response ends with the end token."""

    id: str
    prompt: tuple[int, ...]
    first: tuple[int, ...]
    second: tuple[int, ...]
    label: float


def render_prompt(prompt: str | tuple[Message, ...], tokenizer: ChatTokenizer) -> str:
    """The prompt as the model reads it: plain text as it is, chat turns through the tokenizer's own template.

    Raises GoodhartError for chat turns if the tokenizer has no template, and jinja2's TemplateError if the
    template refuses them (some refuse a system turn).
    """
    if isinstance(prompt, str):
        return prompt
    if not tokenizer.chat_template:
        raise GoodhartError(
            "the prompts are chat messages and the tokenizer has no chat template",
            "use a chat model's tokenizer, or set its chat_template (PLAIN_TEMPLATE is one without special tokens)",
        )
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


def encode_example(
    preference: Preference, tokenizer: ChatTokenizer, max_prompt: int, max_response: int
) -> Encoded | str:
    """Token ids of a comparison, or the reason why it is filtered; nothing is ever cut.

    Lengths are in tokens, the response's end token included. A template's text is encoded without further
    special tokens, a plain prompt with those that the tokenizer adds (unless it begins with them), so there is
    one beginning token at most. Raises GoodhartError as `render_prompt` does, and without an end token.
    """
    encoded = tokenise(preference, tokenizer)
    return encoded if isinstance(encoded, str) else over_limit(encoded, max_prompt, max_response) or encoded


def tokenise(preference: Preference, tokenizer: ChatTokenizer) -> Encoded | str:
    """Token ids of a comparison of any length, or the reason why it has none. Raises as `encode_example` does."""
    from jinja2.exceptions import TemplateError

    end = tokenizer.special_tokens_map.get("eos_token")
    if end is None:
        raise GoodhartError("the tokenizer has no end token", "set its eos_token")
    if not isinstance(preference.prompt, str) and _has_control(preference.prompt, tokenizer):
        return "a chat message that holds one of the tokenizer's special tokens"
    try:
        text = render_prompt(preference.prompt, tokenizer)
    except TemplateError as fault:
        return f"refused by the chat template: {' '.join(str(fault).split())}"
    prompt = _prompt_ids(text, isinstance(preference.prompt, str), tokenizer)
    first, second = (_response_ids(response, end, tokenizer) for response in (preference.first, preference.second))
    if not prompt:
        return "prompt of no tokens"
    if len(first) == 1 or len(second) == 1:
        return "response of no tokens"
    if first == second:
        return "responses of the same tokens"
    return Encoded(preference.id, prompt, first, second, preference.label)


def over_limit(encoded: Encoded, max_prompt: int, max_response: int) -> str | None:
    """The reason why a comparison is too long, or None."""
    if len(encoded.prompt) > max_prompt:
        return f"prompt longer than {max_prompt} tokens"
    if max(len(encoded.first), len(encoded.second)) > max_response:
        return f"response longer than {max_response} tokens"
    return None


def encode_examples(
    examples: Sequence[Preference], tokenizer: ChatTokenizer, max_prompt: int, max_response: int
) -> tuple[tuple[Encoded, ...], dict[str, int]]:
    """The encoded comparisons, and the count of each reason for leaving one out.

    Raises GoodhartError as `encode_example` does, and if none is left.
    """
    kept: list[Encoded] = []
    reasons: Counter[str] = Counter()
    for example in examples:
        result = encode_example(example, tokenizer, max_prompt, max_response)
        if isinstance(result, str):
            reasons[result] += 1
        else:
            kept.append(result)
    if not kept:
        counts = "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common()) or "there were none"
        raise GoodhartError(
            f"no comparison is left after encoding ({counts})", "raise the token limits, or give other data"
        )
    return tuple(kept), dict(reasons.most_common())


def check_context(max_prompt: int, max_response: int, context: int) -> None:
    """Raises GoodhartError if a prompt and a response of the greatest lengths do not fit the model's context."""
    if max_prompt + max_response > context:
        raise GoodhartError(
            f"prompts of up to {max_prompt} and responses of up to {max_response} tokens do not fit "
            f"the model's context of {context} tokens",
            f"lower their sum to {context}, or choose a model with a longer context",
        )


def _has_control(prompt: tuple[Message, ...], tokenizer: ChatTokenizer) -> bool:
    # in a rendered prompt it could not be told from the template's own, and would end or forge a turn
    return any(token in turn.content for turn in prompt for token in tokenizer.all_special_tokens)


def _prompt_ids(text: str, plain: bool, tokenizer: ChatTokenizer) -> tuple[int, ...]:
    begin = tokenizer.special_tokens_map.get("bos_token")
    add = plain and not (begin and text.startswith(begin))
    return tuple(tokenizer(text, add_special_tokens=add, verbose=False)["input_ids"])


def _response_ids(text: str, end: str, tokenizer: ChatTokenizer) -> tuple[int, ...]:
    # a special token's name inside a response is text, or it would end the response early
    body = tokenizer(text.removesuffix(end), add_special_tokens=False, split_special_tokens=True, verbose=False)
    return (*body["input_ids"], tokenizer.convert_tokens_to_ids(end))
