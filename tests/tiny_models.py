"""Language models of a few thousand parameters, made on the spot with weights that a seed decides."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from goodhart.alignment.policy import LanguagePolicy
from goodhart.sampling.keyed import KeyedSampler
from goodhart.tasks.prompts import Prompt

END, PAD = 1, 0


def llama(*, vocabulary=16, seed=0, layers=2, scale=0.4, hidden=16):
    """Rotary positions; `scale` is the spread of the weights, and so how sharp the laws are."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=scale,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=None,
    )
    return _made(LlamaForCausalLM, config, seed)


def gpt2(*, vocabulary=16, seed=0, layers=2, scale=0.4, hidden=16):
    """Absolute positions."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=hidden,
        n_layer=layers,
        n_head=2,
        n_positions=64,
        initializer_range=scale,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=None,
    )
    return _made(GPT2LMHeadModel, config, seed)


MODELS = {"rotary": llama, "absolute": gpt2}


def _made(kind, config, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).eval()


def policy_of(model, *, max_tokens=6, reduction="sum", batch=64, end=END):
    return LanguagePolicy.of(model, KeyedSampler(end, PAD, max_tokens, batch=batch), PAD, reduction)


def prompt(number, *tokens):
    return Prompt(f"{number:012x}", tokens)


def naive_logp(model, given, response):
    """log p of every response token by one plain forward of one sequence: no mask, no padding, no batch."""
    logits = model(input_ids=torch.tensor([[*given, *response]]), use_cache=False).logits[0]
    laws = logits[len(given) - 1 : -1].log_softmax(-1)
    return laws.gather(1, torch.tensor(list(response))[:, None])[:, 0]


def gradients(model, value):
    """The gradient of `value` by parameter, as one vector."""
    found = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])
