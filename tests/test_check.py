"""What a study's files tell before its first cell: sizes, tokenizers, contexts, templates, and how much data."""

import json
import re
import struct
from pathlib import Path

import pytest
import yaml

from goodhart.cells.workplace import Workplace
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import find, load_model, load_tokenizer
from goodhart.models.model_files import config, context, parameters, vocabulary
from goodhart.recipes.data import preference_prompts
from goodhart.studies.check import check
from goodhart.studies.check_data import Supply, check_supply, default_needs, held_out_need, supply
from goodhart.studies.check_models import check_sizes, models
from goodhart.studies.spec import read_study
from goodhart.tasks.data_digest import data_digest
from goodhart.tasks.tokenizer import train_tokenizer
from micro_study import preference_lines, said, write_micro_study, write_model, write_qwen2, write_small_study, write_t5
from preference_data_cases import answer, user, write

REPOSITORY = Path(__file__).parent.parent
TEXTS = [" ".join(line.values()) for line in preference_lines(40)]


def stand_in(folder, size, positions=32768, tokenizer=None):
    """A folder that says of itself that it is a model of some size; there are no weights behind its header."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": positions}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 1000, 1000], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    if tokenizer:
        tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    return write_micro_study(tmp_path_factory.mktemp("check"))


def refused(path, overrides, *says):
    with pytest.raises(GoodhartError) as caught:
        check(read_study(str(path), overrides))
    text = str(caught.value)
    assert "\n" not in text
    for each in says:
        assert each in text
    return text


class TestFiles:
    @pytest.mark.parametrize("name", ["nano", "tiny", "small"])
    def test_parameters_are_counted_as_torch_counts_them(self, name):
        folder = Path(find(name).path)
        assert parameters(folder) == sum(p.numel() for p in load_model(folder).parameters())

    @pytest.mark.parametrize("write_one", [write_model, write_qwen2, write_t5])
    def test_the_vocabulary_is_that_of_the_tokenizer(self, tmp_path, write_one):
        write_one(tmp_path, TEXTS)
        assert vocabulary(tmp_path) == load_tokenizer(tmp_path).get_vocab()

    @pytest.mark.parametrize(("name", "text"), [("tokenizer.json", "{"), ("tokenizer_config.json", "[1]")])
    def test_a_damaged_tokenizer_is_an_error(self, tmp_path, name, text):
        train_tokenizer(TEXTS, 320).save_pretrained(tmp_path)
        (tmp_path / name).write_text(text)
        with pytest.raises(GoodhartError, match=r"the tokenizer of model folder .* cannot be read"):
            vocabulary(tmp_path)

    def test_relative_positions_have_no_limit(self, tmp_path):
        write_t5(tmp_path, TEXTS)
        assert context({**config(tmp_path), "n_positions": 512}) is None
        assert context({"n_positions": 1024}) == 1024

    @pytest.mark.parametrize(
        "data", [b"", b"\xff" * 8, struct.pack("<Q", 3) + b"[1]", struct.pack("<Q", 9) + b'{"a":{}} ']
    )
    def test_a_damaged_header_is_an_error(self, tmp_path, data):
        (tmp_path / "model.safetensors").write_bytes(data)
        with pytest.raises(GoodhartError, match=r"model\.safetensors has no safetensors header that can be read"):
            parameters(tmp_path)


@pytest.mark.parametrize("name", ["quick", "smoke", "paper", "names", "thin", "covered", "league"])
def test_the_studies_that_ship_pass(name):
    check(read_study(name, []))


@pytest.mark.parametrize("name", ["arena", "hh_harmless", "hh_helpful", "tldr"])
def test_the_recipes_leave_nothing_to_the_defaults_of_small_models(name):
    study = read_study(str(REPOSITORY / "recipes" / f"{name}.yaml"), [])
    check_sizes(study, dict.fromkeys(models(study), 800_000_000))


def test_a_study_of_ones_own_passes(micro):
    check(read_study(str(micro), []))


class TestModels:
    def test_another_tokenizer_is_named_before_anything_is_trained(self, micro, tmp_path):
        write_qwen2(tmp_path / "other", TEXTS)
        other = str(tmp_path / "other")
        for key in ("golden.model", "proxy.model", "variants.wide.policy"):
            refused(micro, [f"{key}={other}"], f"{key} ({other}) and the policy", "different tokenizers", "one family")

    @pytest.mark.parametrize(
        ("override", "says"),
        [
            ("task.max_prompt=60", "policy has a context of 64 tokens, and a prompt of task.max_prompt=60"),
            ("task.max_prompt=52", "golden.model has a context of 64 tokens"),  # 52 + 12 fit, two responses do not
        ],
    )
    def test_a_context_that_is_too_short_is_named(self, micro, override, says):
        refused(micro, [override], says, "choose a model with a longer context")

    def test_an_encoder_reads_the_prompt_apart(self, tmp_path):
        path = write_small_study(tmp_path, write_t5)
        check(read_study(str(path), ["task.max_prompt=500"]))

    @pytest.mark.parametrize("method", ["ppo", "dro-v"])
    def test_an_encoder_decoder_has_no_value_model(self, tmp_path, method):
        path = write_small_study(tmp_path, write_t5)
        says = ["arm 'mine' learns a value model", "policy is an encoder-decoder", "rloo instead of ppo"]
        refused(path, [f"arms.mine={{method: {method}, lr: [1.0e-3], steps: 2, checkpoints: 1}}"], *says)

    def test_a_model_without_a_tokenizer_is_named(self, micro, tmp_path):
        stand_in(tmp_path / "bare", 1000)
        refused(micro, [f"golden.model={tmp_path / 'bare'}"], "has no tokenizer", "tokenizer.save_pretrained")
        refused(micro, [f"policy={tmp_path / 'bare'}"], "has no tokenizer")

    def test_a_misspelt_preset_is_guessed(self):
        refused("quick", ["policy=tinny"], "model 'tinny' is neither shipped", "did you mean 'tiny'?")


class TestDefaultsFitTheModelsSize:
    LARGE = 494_000_000

    @pytest.fixture
    def study(self, tmp_path):
        tokenizer = train_tokenizer(TEXTS, 320)
        stand_in(tmp_path / "large", self.LARGE, tokenizer=tokenizer)
        stand_in(tmp_path / "little", 40_000_000, tokenizer=tokenizer)
        path = tmp_path / "mine.yaml"

        def written(**changes):
            models = {key: {"model": "little"} for key in ("golden", "proxy")}
            study = {"policy": "little", **models, "labels": {"number": 64}, "task": {"train_evaluation": 8}, **changes}
            path.write_text(yaml.safe_dump(study))
            return path

        return written

    def test_small_models_need_no_settings(self, study):
        check(read_study(str(study()), []))

    def test_a_large_policy_is_asked_for_its_rates(self, study):
        text = refused(study(policy="large"), [], "policy has 494 million", "sft.optimisation.lr=1.0e-5")
        assert "golden_policy.lr=[1.0e-6] golden_policy.steps=60 arms.online.lr=[1.0e-6] arms.offline.lr" in text
        assert "head_factor" not in text, "the preference models are small"

    def test_what_is_proposed_passes(self, study):
        models = {key: {"model": "large"} for key in ("golden", "proxy")}
        path = study(policy="large", **models)
        proposed = refused(path, []).rpartition(" is ")[2].split()
        assert len(proposed) == 9
        check(read_study(str(path), proposed))

    @pytest.mark.parametrize("role", ["golden", "proxy"])
    def test_a_large_preference_model_is_asked_for_its_own(self, study, role):
        path = study(**{role: {"model": "large", "optimisation": {"lr": 1e-4}}})
        text = refused(path, [], f"the defaults of {role}.head_factor are for", f"{role}.model has 494 million")
        assert "optimisation.lr" not in text, "a value that is named is taken, though it is the default's"
        check(read_study(str(path), [f"{role}.head_factor=1"]))

    def test_a_large_variant_is_asked_for_what_its_arms_take(self, study):
        arms = {"a": {}, "b": {"variant": "v"}}
        path = study(arms=arms, variants={"v": {"policy": "large"}})
        text = refused(path, [], "variants.v.policy has 494 million", "arms.b.lr", "sft.optimisation.lr")
        assert "arms.a.lr" not in text
        path = study(arms=arms, variants={"v": {"policy": "large", "sft": {"steps": 3}}})
        assert "variants.v.sft.optimisation.lr" in refused(path, ["arms.b.lr=[1e-6]"])
        path = study(variants={"v": {"proxy": {"model": "large"}}})
        refused(path, [], "variants.v.proxy.head_factor=1")

    def test_what_ships_is_set_for_what_ships(self, study):
        large = str(study().parent / "large")
        refused("quick", [f"policy={large}", f"golden.model={large}", f"proxy.model={large}"], "arms.online.lr")


class TestData:
    def test_splits_that_the_data_cannot_fill(self, micro):
        text = refused(micro, ["task.evaluation=200"], "usable held-out prompts (task.held_out=0.4)", "ask for 248")
        proposed = re.search(r"set (.*?);", text).group(1).split()
        assert len(proposed) == 3
        check(read_study(str(micro), proposed))

    def test_a_larger_share_is_proposed_where_it_would_do(self, micro):
        text = refused(micro, ["task.held_out=0.15"], "ask for 64")
        share = re.search(r"or (task.held_out=[\d.]+)", text).group(1)
        check(read_study(str(micro), [share]))

    @pytest.mark.parametrize("key", ["labels.number", "variants.noisy.labels.number"])
    def test_more_labels_than_pairs(self, micro, key):
        text = refused(micro, [f"{key}=1000"], f"{key} is 1,000", "usable training pairs", "raise task.max_prompt")
        assert "pool." not in text, "the pool is of built-in tasks"
        check(read_study(str(micro), [re.search(rf"set ({key}=\d+)", text).group(1)]))

    def test_what_the_limits_filter_does_not_count(self, micro):
        refused(micro, ["task.max_prompt=2"], "has 0 usable held-out prompts", "give more data")

    def test_repeated_prompts_count_once(self, micro, tmp_path):
        lines = [{**line, "prompt": "say it"} for line in preference_lines(300)]
        lines += preference_lines(40)
        data = write(tmp_path / "same.jsonl", lines)
        refused(micro, [f"task.data={data}"], "usable held-out prompts", "ask for 64")

    def test_the_count_is_that_of_the_first_cell(self, micro, tmp_path):
        """Where the data do not suffice, everything is counted: as many as the cell of the data then has."""
        study = read_study(str(micro), ["task.max_prompt=20", "labels.number=9999"])
        given = supply(study, Path(find(study.policy).path))
        need = held_out_need(study.task)
        assert given.held_out >= need
        (tmp_path / "out").mkdir()
        settings = {
            "task": {"kind": "preferences", "data": study.task.data, "held_out": 0.4, "max_prompt": 20,
                     "max_response": 12, "evaluation": 2, "validation": 2},
            "tokenizer": find(study.policy).digest,
            "data": {key: value for key, value in data_digest(study.task.data).items() if key != "name"},
        }  # fmt: skip
        places = {"tokenizer": study.policy, "data": study.task.data}
        counts = preference_prompts(Workplace(settings, {}, tmp_path / "out", places))["counts"]
        held_out = sum(n for split, n in counts["splits"].items() if split != "train")
        assert counts["pairs"] - given.pairs == held_out, "another number of training pairs"
        assert counts["splits"]["train"] == given.train

    def test_large_data_are_not_tokenised_to_the_end(self, micro, tmp_path, monkeypatch):
        from goodhart.tasks import preference_tokens

        seen = []
        rendered = preference_tokens._rendered
        monkeypatch.setattr(preference_tokens, "_rendered", lambda *a: (seen.append(1), rendered(*a))[1])
        data = write(tmp_path / "large.jsonl", preference_lines(20_000))
        check(read_study(str(micro), [f"task.data={data}"]))
        assert 0 < len(seen) < 2000, f"{len(seen)} of 20,000 prompts were tokenised for a study of 96"

    def test_chats_without_a_template(self, micro, tmp_path):
        rows = [
            {
                "prompt": [user(line["prompt"])],
                "chosen": [answer(line["chosen"])],
                "rejected": [answer(line["rejected"])],
            }
            for line in preference_lines(300)
        ]
        data = f"task.data={write(tmp_path / 'chat.jsonl', rows)}"
        refused(micro, [data], "there is no chat template", "set task.template=plain")
        check(read_study(str(micro), [data, "task.template=plain", "task.max_prompt=38"]))
        refused(micro, [data, "task.template='{% for %}'"], "the chat template is no Jinja")

    @pytest.mark.parametrize("key", ["labels.number", "variants.256 labels.labels.number"])
    def test_more_labels_than_a_built_in_task_has_pairs(self, key):
        overrides = ["variants={256 labels: {labels: {number: 9}}}", f"{key}=1141"]
        refused("quick", overrides, f"{key} is 1,141", f"set {key}=1140 or pool.pairs=3804")
        refused("quick", [*overrides, "pool.samples=0", "pool.early=0.35"], "raise pool.samples")
        check(read_study("quick", [*overrides, "pool.pairs=3804"]))

    def test_training_prompts(self, micro):
        study = read_study(str(micro), [])
        check_supply(study, Supply(64, 8, 32))
        with pytest.raises(GoodhartError, match=r"set task\.train_evaluation=7"):
            check_supply(study, Supply(64, 7, 32))

    def test_what_a_study_with_default_sizes_needs(self):
        assert "needs 6,400 distinct prompts and 1,024 training pairs: there are enough" in default_needs(6400, 6400)
        short = default_needs(2000, 1000)
        assert "for 2,000 prompts set task.evaluation=" in short
        assert "labels.number=760" in short
        sizes = [int(n) for n in re.findall(r"task\.\w+=(\d+) ?", short.partition(", or")[0])]
        assert sum(sizes) <= 2000 * 0.2


def test_the_example_by_hand_passes(tmp_path):
    """With stand-ins for its models, which have their sizes, and data of the size that the page names."""
    text = (REPOSITORY / "docs" / "your-data.md").read_text()
    study = text.partition("```yaml\n# mine.yaml\n")[2].partition("```")[0]
    (tmp_path / "mine.yaml").write_text(study)
    tokenizer = train_tokenizer(TEXTS, 320)
    stand_in(tmp_path / "Qwen/Qwen2.5-0.5B-Instruct", 494_032_768, tokenizer=tokenizer)
    stand_in(tmp_path / "Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304, tokenizer=tokenizer)
    number = int(re.search(r"([\d,]+)\s+distinct\s+prompts", text).group(1).replace(",", ""))
    write(tmp_path / "my_pairs.jsonl", preference_lines(number))
    found = read_study(str(tmp_path / "mine.yaml"), [])
    assert found.policy.startswith(str(tmp_path)), "a stand-in for each model"
    check(found)


class TestTheDataCommand:
    def test_limits_need_a_model(self, micro, capfd):
        data = str(micro.parent / "preferences.jsonl")
        for option in (["--max-prompt", "9"], ["--max-response", "9"], ["--template", "plain"]):
            done = said(capfd, "data", data, *option)
            assert done.returncode == 1
            assert f"{option[0]}: without a model there are no tokens; name its tokenizer with --model" in done.stderr

    def test_it_counts_prompts_and_says_what_a_study_needs(self, micro, capfd):
        done = said(capfd, "data", str(micro.parent / "preferences.jsonl"), "--model", str(micro.parent / "model"))
        assert done.returncode == 0
        for piece in (
            "prompts     300 distinct",
            "template    none",
            "needs 6,400 distinct prompts",
            "for 300 prompts set",
        ):
            assert piece in done.stdout
        assert done.stderr == "", "a bar where there is no terminal"


def test_a_number_of_workers_below_none_is_refused(capfd, tmp_path):
    done = said(capfd, "run", "smoke", "--dry-run", "--workers=-1", "--root", str(tmp_path))
    assert (done.returncode, done.stderr.startswith("error: --workers is -1; give a number")) == (1, True)
