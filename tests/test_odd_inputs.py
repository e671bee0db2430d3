"""What generated inputs found: names that are no paths, templates and tokenizers that break, threads that end."""

import json

import pytest
import yaml

from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import find, load_tokenizer, read_model
from goodhart.studies.spec import read_study
from goodhart.tasks.data_source import find_source, read_rows
from goodhart.tasks.preference import Message, Preference
from goodhart.tasks.preference_tokens import Framing, encode_example
from micro_study import write_model

ODD = ["a" * 5000, "nul\0byte", "~nobody-of-that-name/x"]


@pytest.mark.parametrize("name", ODD, ids=["long", "nul", "home"])
def test_a_name_that_can_be_no_path_is_refused_in_a_study_file_and_for_a_model(name, tmp_path):
    for settings in ({"policy": name}, {"task": {"data": name}}):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(settings))
        with pytest.raises(GoodhartError, match="can be no path and no name"):
            read_study(str(path), [])
    with pytest.raises(GoodhartError, match=r"can be no folder and no name|nor a folder"):
        find(name)


def test_a_number_of_more_digits_than_python_reads_is_told_with_its_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": ' + "9" * 5000 + "}\n")
    with pytest.raises(GoodhartError, match="line 2 of"):
        read_rows(find_source(str(path)), "data")


@pytest.fixture
def model(tmp_path):
    write_model(tmp_path / "model", ["say good bad", "small red cat"])
    return tmp_path / "model"


def changed(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_layers_that_the_weights_do_not_have_are_refused_before_they_are_built(model):
    changed(model / "config.json", num_hidden_layers=10**9)
    with pytest.raises(GoodhartError, match="num_hidden_layers is 1000000000"):
        read_model(model)


def test_a_model_that_its_library_cannot_read_is_one_sentence(model):
    changed(model / "config.json", hidden_size="wide")
    with pytest.raises(GoodhartError, match="cannot be loaded") as found:
        read_model(model)
    assert "\n" not in str(found.value)


def test_a_tokenizer_whose_settings_break_at_the_first_text_is_one_sentence(model):
    changed(model / "tokenizer_config.json", model_max_length="many")
    with pytest.raises(GoodhartError, match="tokenizer that cannot be read"):
        load_tokenizer(model)


@pytest.mark.parametrize(
    "template", ["{% for i in range(10 ** 9) %}x{% endfor %}", "{% include 'other' %}", "{{ 1 / 0 }}"]
)
def test_a_template_that_breaks_filters_its_prompts_with_the_reason(model, template):
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = template
    example = Preference("id", (Message("user", "say"),), "good", "bad", 1.0)
    found = encode_example(example, tokenizer, Framing.of("auto", tokenizer, "chat"), 64, 64)
    assert isinstance(found, str)
    assert found.startswith("refused by the chat template")
