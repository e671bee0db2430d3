"""The recipe of policies that others have trained: they are measured as they are."""

from __future__ import annotations

from typing import Any

from goodhart.cells.workplace import Workplace
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import load_model, load_tokenizer, locate
from goodhart.recipes.models import save_policy


def adopted(work: Workplace) -> dict[str, Any]:
    """`step-N/`, N = 1, 2, ..: copies of the policies under the digests that the settings name, in their order.

    Raises GoodhartError for files that have changed since, or a tokenizer that is not the SFT policy's.
    """
    expected = load_tokenizer(work.inputs["sft"] / "final")
    names: list[str] = []
    for number, digest in enumerate(work.settings["models"], 1):
        name = work.places[f"models.{number - 1}"]
        folder = locate({"name": name, "digest": digest})
        tokenizer = load_tokenizer(folder)
        if tokenizer.get_vocab() != expected.get_vocab() or tokenizer.eos_token_id != expected.eos_token_id:
            problem = f"the policy {name!r} has another tokenizer than the study's"
            raise GoodhartError(problem, "adopt one that was trained from the study's model")
        # the study's tokenizer is saved with it: prompts and responses are token ids of that one
        save_policy(load_model(folder), expected, work.folder / f"step-{number}", work, f"Adopted policy {name}")
        names.append(name)
    return {"adopted": names}
