"""Every response that a tiny model can write, with its exact probability."""

import itertools

import torch

from tiny_models import plain_logits


def responses(vocabulary, end, longest):
    """Token sequences that end with `end`, or are cut at `longest` without it."""
    others = [v for v in range(vocabulary) if v != end]
    ended = [[*body, end] for n in range(longest) for body in itertools.product(others, repeat=n)]
    return ended + [list(body) for body in itertools.product(others, repeat=longest)]


@torch.no_grad()
def laws(model, prompt, written):
    """log p(next token) before each token of one response, float64, by a plain forward."""
    return plain_logits(model, prompt, written).double().log_softmax(-1)


def log_probability(law, written):
    """log p of a response by its `laws`."""
    return float(sum(law[t, token] for t, token in enumerate(written)))
