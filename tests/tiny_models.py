"""Language models of a few thousand parameters, made on the spot with weights that a seed decides."""

import functools
from dataclasses import replace

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

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


def t5(*, vocabulary=16, seed=0, layers=2, scale=0.4, hidden=16, own_head=False):
    """An encoder-decoder with relative positions in few and narrow buckets, and more layers on its writing side.

    As in T5, its embeddings are its output layer behind scaled states; `own_head` makes it a gated T5 1.1 without.
    """
    config = T5Config(
        vocab_size=vocabulary,
        d_model=hidden,
        d_kv=hidden // 2,
        d_ff=2 * hidden,
        num_layers=layers,
        num_decoder_layers=layers + 1,
        num_heads=2,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        feed_forward_proj="gated-gelu" if own_head else "relu",
        tie_word_embeddings=not own_head,
        decoder_start_token_id=PAD,
        pad_token_id=PAD,
        eos_token_id=END,
    )
    return _made(functools.partial(_sharp_t5, scale=scale, own_head=own_head), config, seed)


def bart(*, vocabulary=16, seed=0, layers=2, scale=0.4, hidden=16):
    """An encoder-decoder with absolute positions, whose output layer has a bias."""
    config = BartConfig(
        vocab_size=vocabulary,
        d_model=hidden,
        encoder_layers=layers,
        decoder_layers=layers + 1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=2 * hidden,
        decoder_ffn_dim=2 * hidden,
        max_position_embeddings=64,
        init_std=scale,
        decoder_start_token_id=END,
        forced_eos_token_id=None,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    model = _made(BartForConditionalGeneration, config, seed)
    model.final_logits_bias.copy_(torch.linspace(-1, 1, vocabulary))
    return model


CAUSAL = {"rotary": llama, "absolute": gpt2}
ENCODER_DECODERS = {"T5": t5, "T5 1.1": functools.partial(t5, own_head=True), "BART": bart}
MODELS = {**CAUSAL, **ENCODER_DECODERS}


def _made(kind, config, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).eval()


def _sharp_t5(config, *, scale, own_head):
    """A T5 whose laws are as sharp as those of the others: with its own initial weights it hardly attends."""
    model = T5ForConditionalGeneration(config)
    if own_head:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, scale)
        if not own_head:
            model.shared.weight.mul_(config.d_model**0.5)
    return model


def policy_of(model, *, max_tokens=6, batch=64, end=END, name=""):
    return replace(LanguagePolicy.of(model, KeyedSampler(end, PAD, max_tokens, batch=batch), PAD), name=name)


def prompt(number, *tokens):
    return Prompt(f"{number:012x}", tokens)


def plain_logits(model, given, response):
    """Logits before each token of one response, by one plain forward: no mask, no padding, no batch."""
    if model.config.is_encoder_decoder:
        return model(input_ids=torch.tensor([given]), labels=torch.tensor([response])).logits[0]
    logits = model(input_ids=torch.tensor([[*given, *response]]), use_cache=False).logits[0]
    return logits[len(given) - 1 : -1]


def plain_states(model, given, response):
    """The last states at each token of one response, by one plain forward."""
    if model.config.is_encoder_decoder:
        read = torch.tensor([[model.config.decoder_start_token_id, *response]])
        found = model(input_ids=torch.tensor([given]), decoder_input_ids=read, output_hidden_states=True)
        return found.decoder_hidden_states[-1][0, 1:]
    found = model(input_ids=torch.tensor([[*given, *response]]), output_hidden_states=True, use_cache=False)
    return found.hidden_states[-1][0, len(given) :]


def naive_logp(model, given, response):
    """log p of every response token by one plain forward of one sequence."""
    laws = plain_logits(model, list(given), list(response)).log_softmax(-1)
    return laws.gather(1, torch.tensor(list(response))[:, None])[:, 0]


def gradients(model, value):
    """The gradient of `value` by parameter, as one vector."""
    found = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])
