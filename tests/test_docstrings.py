"""The built-in task's corpus: what counts as a docstring, the same every time, nothing on both sides."""

import ast
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from goodhart.errors import GoodhartError
from goodhart.tasks import docstrings
from goodhart.tasks.docstring_text import BEGIN, FOREIGN_CLOSING, RESPOND, documents, prompt_frame, prompt_text
from goodhart.tasks.docstrings import Docstring, split_docstring
from goodhart.tasks.tokenizer import train_tokenizer

BODY = "The body tells more about it in at least eight plain words."


def test_summary_and_body_are_cut_at_the_blank_line():
    assert split_docstring(f"Return the answer.\n\n{BODY}") == ("Return the answer.", BODY)
    assert split_docstring(f"Return the answer\nto everything.\n\n{BODY}") == ("Return the answer to everything.", BODY)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Return the answer.", "no body"),
        (f"One two.\n\n{BODY}", "summary not of 3 to 18 words"),
        ("Return the answer.\n\nToo short.", "body shorter than 8 words or not ASCII"),
        (f"Return\nthe long\nanswer now.\n\n{BODY}", "summary of more than two lines"),
        (f"::1 = 2 + 3 - 4 * 5::\n\n{BODY}", "summary not plain English"),
        (f"Return the naïve answer.\n\n{BODY}", "summary not plain English"),
    ],
)
def test_what_is_left_out_has_a_reason(text, reason):
    assert split_docstring(text) == reason


@given(st.text())
def test_any_text_is_split_or_refused(text):
    found = split_docstring(text)
    assert isinstance(found, str) or all(part.strip() for part in found)


def test_names_are_qualified_and_in_source_order():
    source = textwrap.dedent('''
        """Module docstrings do not count."""
        class A:
            """First."""
            def f(self):
                """Second."""
                def g():
                    """Third."""
        async def h():
            """Fourth."""
    ''')
    found = [(name, text) for name, _, text in docstrings.documented_nodes(ast.parse(source))]
    assert found == [("A", "First."), ("A.f", "Second."), ("A.f.g", "Third."), ("h", "Fourth.")]


def test_source_that_does_not_parse_is_none():
    assert docstrings.parse("def f(:") is None


def test_no_package_stands_on_both_sides():
    train, held_out = set(docstrings.train_packages()), set(docstrings.test_packages())
    assert train
    assert held_out
    assert not train & held_out
    in_parts = [(side, package) for side, packages in docstrings.parts() for package in packages]
    assert {p for side, p in in_parts if side == "train"} == train
    assert {p for side, p in in_parts if side == "held_out"} == held_out
    assert len(in_parts) == len(set(in_parts))


def test_no_held_out_file_is_read_for_training():
    held_out = {path for package in ("email", "logging") for path in docstrings.package_files(package)}
    trained = {path for package in ("json", "difflib", "turtle") for path in docstrings.package_files(package)}
    assert held_out
    assert trained
    assert not held_out & trained


def test_the_same_packages_give_the_same_docstrings():
    first, second = docstrings.collect(["difflib", "email"]), docstrings.collect(["difflib", "email"])
    assert first == second
    assert {item.package for item in first[0]} == {"difflib", "email"}


def test_a_missing_package_is_named():
    with pytest.raises(GoodhartError, match="no_such_package_here"):
        docstrings.package_files("no_such_package_here")


def test_prompts_never_hold_the_summary_line():
    found, _ = docstrings.collect(["difflib", "ipaddress", "threading"])
    assert found
    for item in found:
        assert prompt_text(item).startswith(item.name + "\n")
        assert item.summary not in prompt_text(item).split("\n", 1)[1][: len(item.summary)]


def test_a_prompt_is_framed_by_special_tokens_or_for_a_foreign_tokenizer_by_words():
    own = train_tokenizer([BODY], 300)
    assert own.convert_ids_to_tokens([i for part in prompt_frame(own) for i in part]) == [BEGIN, RESPOND]
    foreign = Tokenizer(models.BPE(unk_token=None))
    foreign.pre_tokenizer, foreign.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    foreign.train_from_iterator(
        [BODY],
        trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"]),
    )
    for named, expected in (({"bos_token": "<s>"}, "<s>"), ({}, "")):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=foreign, eos_token="</s>", **named)
        opening, closing = prompt_frame(tokenizer)
        assert (tokenizer.decode(opening), tokenizer.decode(closing)) == (expected, FOREIGN_CLOSING)


def test_identity_ignores_case_and_spacing():
    one = Docstring("a", "f", "Return the answer.", "Body  text\n here.")
    other = Docstring("b", "g", "return the  answer.", "body text here.")
    assert one.identity == other.identity


def test_pretraining_documents_are_unique_and_keyed():
    found = list(documents(["difflib", "textwrap"], seed=0))
    assert {d.kind for d in found} == {"summary", "code", "prose", "source"}
    assert found == list(documents(["difflib", "textwrap"], seed=0))
    other = list(documents(["difflib", "textwrap"], seed=1))
    assert found != other
    assert sorted(map(repr, found)) == sorted(map(repr, other))
    assert len({(d.kind, d.head, d.tail) for d in found}) == len(found)
