"""The account of memory: what a step keeps is what PyTorch saves, what will not fit is an error with a remedy."""

import pytest
import torch

from goodhart.errors import GoodhartError
from goodhart.models.adapter import adapted, chosen_layers, weights_of
from goodhart.models.adapter_settings import Adapter
from goodhart.models.checkpoint import find, read_model
from goodhart.models.logprobs import sequence_logps
from goodhart.models.recomputation import recompute_layers
from goodhart.studies import cell_memory, memory_fit
from goodhart.studies.cell_memory import Memory, check_memory, said
from goodhart.studies.graph import build_graph
from goodhart.studies.memory_fit import Holds, Shape, Text
from goodhart.studies.spec import read_study
from goodhart.training.settings import Optimisation
from micro_study import said as printed
from micro_study import write_micro_study, write_small_study

TEXT, ROWS = Text(40, 2, 20), 3
ADAPTER = Adapter(rank=4)


def shape_of(model):
    from pathlib import Path

    return Shape.of(Path(find(model).path))


def saved(model):
    """Bytes that a forward pass over pairs keeps for the backward pass, each storage once, parameters left out."""
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 4000, (ROWS, TEXT.tokens), generator=draw).tolist()
    pairs = [[row[40:60], row[60:]] for row in tokens]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = sequence_logps(model, [row[:40] for row in tokens], pairs, pad=0, layout="shared prompt")
    assert value.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_what_is_said_to_be_kept_is_what_is_saved_within_a_fifth(adapter, again):
    model, settings = read_model(find("tiny").path), Optimisation(gradient_checkpointing=again)
    shape = shape_of("tiny")
    if again:
        recompute_layers(model)
    if adapter:
        model = adapted(model, adapter, 0)
    logits = ROWS * TEXT.written * shape.vocabulary * 4
    said_kept = ROWS * shape._kept(TEXT, settings, adapter) + logits
    assert saved(model) == pytest.approx(said_kept, rel=0.2)


def test_an_adapters_weights_are_counted_as_peft_has_them():
    model = read_model(find("tiny").path)
    assert shape_of("tiny").adapter(ADAPTER) == weights_of(chosen_layers(model, ADAPTER), ADAPTER)
    assert shape_of("tiny").parameters == sum(p.numel() for p in model.parameters())


def test_the_parts_of_an_account():
    shape, settings = shape_of("tiny"), Optimisation()
    whole, low = (shape.trained([TEXT], 8, settings, each, cut=True) for each in (None, ADAPTER))
    number, few = shape.parameters, shape.adapter(ADAPTER)
    assert (whole.weights, whole.gradients, whole.optimiser) == (4 * number, 4 * number, 8 * number)
    assert (low.weights, low.gradients, low.optimiser) == (4 * (number + few), 4 * few, 8 * few)
    assert shape.trained([TEXT], 16, settings, None, cut=True).activations == 2 * whole.activations
    less = shape.trained([TEXT], 8, Optimisation(gradient_checkpointing=True), None)
    assert less.activations < whole.activations
    assert shape.trained([TEXT], 8, settings, None).gradients == 4 * shape.vocabulary * shape.width
    assert (whole + low).total == whole.total + low.total


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    path = write_micro_study(tmp_path_factory.mktemp("memory"))
    study = read_study(str(path), [])
    graph = build_graph(study)
    from goodhart.cells.cell import closure

    return study, closure(graph.targets)


def test_every_cell_that_runs_a_model_has_an_account(planned):
    study, cells = planned
    memory = Memory(study)
    none = {cell.kind for cell in cells if memory.holds(cell) is None}
    assert none <= {"prompts", "people", "test people", "preferences", "rule", "corpus", "docstrings"}
    names = [name for name, _ in said(study, cells)]
    assert {"sft", "golden model", "proxy model", "evaluation", "opponents"} <= set(names)
    assert all(holds.total > 0 for _, holds in said(study, cells))


def test_what_will_not_fit_is_an_error_with_the_setting_that_helps(planned, monkeypatch):
    study, cells = planned
    monkeypatch.setattr(memory_fit, "_machine", lambda: 2**50)
    check_memory(study, cells, 2, [])
    monkeypatch.setattr(memory_fit, "_machine", lambda: 2 * cell_memory._PROCESS)
    monkeypatch.setattr(cell_memory, "_TOLERANCE", 1.0)
    with pytest.raises(GoodhartError, match=r"will hold about .* each of 2 workers has 0\.7 GiB") as caught:
        check_memory(study, cells, 2, [])
    assert "--workers 1" in caught.value.remedy


@pytest.mark.parametrize(
    ("holds", "remedy"),
    [
        (Holds(activations=100), "micro_batch=1"),
        (Holds(weights=10, gradients=10, optimiser=20), "adapter="),
    ],
)
def test_the_remedy_is_against_the_largest_part(planned, holds, remedy):
    _, cells = planned
    sft = next(cell for cell in cells if cell.kind == "sft")
    assert remedy in cell_memory._remedy(sft, holds, memory_fit.Room(1, 1))


def test_a_dry_run_prints_it_and_refuses_what_will_not_fit(tmp_path, capfd, monkeypatch):
    path, root = write_small_study(tmp_path), str(tmp_path / "runs")
    asked = ("run", str(path), "--root", root, "--workers", "1", "--dry-run")
    shown = printed(capfd, *asked)
    assert shown.returncode in (0, None)
    lines = [line.split() for line in shown.stdout.splitlines()]
    titles = next(line for line in lines if line[:2] == ["cell", "weights"])
    assert titles == ["cell", "weights", "gradients", "optimiser", "activations", "logits", "in", "all"]
    assert any(line[:1] == ["evaluation"] and len(line) == 7 for line in lines)
    monkeypatch.setattr(memory_fit, "_machine", lambda: 2**20)
    refused = printed(capfd, *asked)
    assert refused.returncode == 1
    assert "will hold about" in refused.stderr
