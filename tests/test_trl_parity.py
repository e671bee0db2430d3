"""The losses against TRL's trainers, on the same tokens and weights: values and gradients.

TRL's offline `ipo` divides each log-ratio by its token count, its online one sums; both use the margin
1/(2 beta) where Goodhart multiplies by beta, so they agree up to beta^2.
"""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from goodhart.alignment.losses import LOSSES
from goodhart.alignment.scores import Scores
from tiny_models import PAD, llama, policy_of

BETA = 0.3
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [14]]
WINNERS = [[20, 21, 22, 1], [23, 1], [24, 25, 26], [1]]
LOSERS = [[27, 1], [28, 29, 30, 31, 1], [32, 33, 34], [35, 36, 1]]
CALM = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "bf16": False, "save_strategy": "no"}


@pytest.fixture(autouse=True)
def _quiet():
    disable_progress_bars()
    yield
    enable_progress_bars()


@pytest.fixture
def models(tokenizer):
    return llama(vocabulary=len(tokenizer), seed=0, layers=1), llama(vocabulary=len(tokenizer), seed=1, layers=1)


def ours(model, reference, loss, reduction, **parameters):
    """(value, gradients) of the mean loss over the pairs."""
    policy, fixed = policy_of(model), policy_of(reference)
    pairs = list(zip(WINNERS, LOSERS, strict=True))
    lengths = torch.tensor([[float(len(r)) for r in pair] for pair in pairs])
    known = fixed.log_probs(PROMPTS, pairs).detach()
    scores = Scores(policy.log_probs(PROMPTS, pairs), known, lengths, reduction, label=torch.ones(len(pairs)))
    value = LOSSES[loss](scores, beta=BETA, **parameters).mean()
    return float(value.detach()), [g.clone() for g in torch.autograd.grad(value, list(model.parameters()))]


def offline(model, reference, tokenizer, folder, loss, noise=0.0):
    """(value, gradients) by TRL's DPOTrainer."""
    data = Dataset.from_dict({"prompt": ["return the"], "chosen": [" sum"], "rejected": [" file"]})
    how = {"loss_type": [loss], "beta": BETA, "label_smoothing": noise, "gradient_checkpointing": False, **CALM}
    settings = DPOConfig(str(folder), **how)
    trainer = DPOTrainer(
        model=model, ref_model=reference, args=settings, train_dataset=data, processing_class=tokenizer
    )
    rows = zip(PROMPTS, WINNERS, LOSERS, strict=True)
    batch = trainer.data_collator([{"prompt_ids": p, "chosen_ids": w, "rejected_ids": y} for p, w, y in rows])
    model.zero_grad()
    value = trainer.compute_loss(trainer.model, batch)
    value.backward()
    return float(value.detach()), [p.grad.clone() for p in model.parameters()]


def online(model, reference, tokenizer, folder, loss):
    """(value, gradients) by TRL's OnlineDPOTrainer, its generation replaced by the tokens above."""
    settings = OnlineDPOConfig(str(folder), loss_type=loss, beta=BETA, gradient_checkpointing=False, **CALM)
    trainer = OnlineDPOTrainer(
        model=model,
        ref_model=reference,
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": ["return the"] * len(PROMPTS)}),
        processing_class=tokenizer,
        reward_funcs=[lambda prompts, **_: [1.0] * len(WINNERS) + [0.0] * len(LOSERS)],
    )
    trainer._generate = lambda *_: (*padded(PROMPTS * 2, left=True), *padded(WINNERS + LOSERS), {})
    model.zero_grad()
    value = trainer.training_step(model, {"prompt": ["return the"] * len(PROMPTS)})
    return float(value), [p.grad.clone() for p in model.parameters()]


def padded(rows, *, left=False):
    width = max(map(len, rows))
    fill = [[PAD] * (width - len(row)) for row in rows]
    mark = [[0] * len(f) for f in fill]
    if left:
        ids = [[*f, *row] for f, row in zip(fill, rows, strict=True)]
        return torch.tensor(ids), torch.tensor([[*m, *[1] * len(row)] for m, row in zip(mark, rows, strict=True)])
    ids = [[*row, *f] for f, row in zip(fill, rows, strict=True)]
    return torch.tensor(ids), torch.tensor([[*[1] * len(row), *m] for m, row in zip(mark, rows, strict=True)])


def agree(mine, theirs, scale):
    assert mine[0] == pytest.approx(scale * theirs[0], rel=1e-4)
    assert sum(float(g.norm()) for g in theirs[1]) > 0.1
    for own, other in zip(mine[1], theirs[1], strict=True):
        torch.testing.assert_close(own, scale * other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("trainer", "theirs", "mine", "reduction", "scale"),
    [
        (offline, "ipo", "ipo", "mean", BETA**2),
        (offline, "sigmoid", "dpo", "sum", 1.0),
        (online, "ipo", "ipo", "sum", BETA**2),
        (online, "sigmoid", "dpo", "sum", 1.0),
    ],
    ids=["offline-ipo-mean", "offline-dpo", "online-ipo-sum", "online-dpo"],
)
def test_loss_and_gradient_are_those_of_trl(models, tokenizer, tmp_path, trainer, theirs, mine, reduction, scale):
    model, reference = models
    found = ours(model, reference, mine, reduction)
    agree(found, trainer(model, reference, tokenizer, tmp_path, theirs), scale)


@pytest.mark.parametrize(
    ("theirs", "mine", "parameters"),
    [("hinge", "hinge", {}), ("robust", "robust", {"noise": 0.2})],
)
def test_other_losses_of_margins_are_those_of_trl(models, tokenizer, tmp_path, theirs, mine, parameters):
    model, reference = models
    found = ours(model, reference, mine, "sum", **parameters)
    agree(found, offline(model, reference, tokenizer, tmp_path, theirs, **parameters), 1.0)


@pytest.mark.parametrize(
    ("mine", "reduction", "theirs", "gamma", "noise"),
    [("simpo", "mean", "simpo", 0.7, 0.0), ("conservative", "sum", "sigmoid", 0.0, 0.2)],
)
def test_losses_that_trl_has_as_a_function_are_the_same(models, mine, reduction, theirs, gamma, noise):
    """SimPO on nats per token, conservative DPO on log-ratios, of the same models."""
    model, reference = models
    policy, pairs = policy_of(model), list(zip(WINNERS, LOSERS, strict=True))
    found = ours(model, reference, mine, reduction, **({"gamma": gamma} if gamma else {"noise": noise}))
    nats = policy.log_probs(PROMPTS, pairs)
    if gamma:
        nats = nats / torch.tensor([[float(len(r)) for r in pair] for pair in pairs])
    else:
        nats = nats - policy_of(reference).log_probs(PROMPTS, pairs).detach()
    settings = SimpleNamespace(alpha=0.0, loss_type=theirs, simpo_gamma=gamma, beta=BETA, label_smoothing=noise)
    settings.accelerator = SimpleNamespace(device=torch.device("cpu"))
    value = CPOTrainer.cpo_loss(settings, nats[:, 0], nats[:, 1])[0].mean()
    agree(found, (float(value.detach()), torch.autograd.grad(value, list(model.parameters()))), 1.0)


def test_the_parity_can_fail(models, tokenizer, tmp_path):
    """Sums are not means: TRL's two trainers disagree about `ipo`, and so must the two reductions."""
    model, reference = models
    theirs = offline(model, reference, tokenizer, tmp_path, "ipo")
    with pytest.raises(AssertionError):
        agree(ours(model, reference, "ipo", "sum"), theirs, BETA**2)
