"""The recipe of merged policies: the end of a round of several runs."""

from __future__ import annotations

from typing import Any

from goodhart.alignment.merging import lerp, merge
from goodhart.cells.workplace import Workplace
from goodhart.recipes.models import load_policy, save_policy


def merged(work: Workplace) -> dict[str, Any]:
    """`final/`, where the next round starts, and `step-N/`, N = 1, 2, ..: the way from SFT to the merged policy.

    theta = merge of the runs' last policies by their differences from where they started; the next round starts at
    (1 - keep) start + keep theta, and `step-N` is (1 - N / checkpoints) sft + N / checkpoints theta (LITI, WARP's
    front, arXiv 2406.16768).
    """
    settings, longest = work.settings, int(work.settings["max_response"])
    sft, tokenizer = load_policy(work.inputs["sft"] / "final", longest)
    start, _ = load_policy(work.inputs.get("start", work.inputs["sft"]) / "final", longest, whole=True)
    runs = [key for key in work.inputs if key.startswith("run ")]
    last = int(settings["step"])
    work.watch.start()
    folders = [work.inputs[key] / f"step-{last}" for key in sorted(runs)]
    ends = [load_policy(folder, longest, whole=True)[0].model.state_dict() for folder in folders]
    origin = {name: value.clone() for name, value in start.model.state_dict().items()}
    theta = merge(origin, ends, settings["how"])
    begun = {name: value.clone() for name, value in sft.model.state_dict().items()}
    model = sft.model
    for number in range(1, int(settings["checkpoints"]) + 1):
        model.load_state_dict(lerp(begun, theta, number / int(settings["checkpoints"])))
        save_policy(model, tokenizer, work.folder / f"step-{number}", work, f"Merged policy {number}")
    model.load_state_dict(lerp(origin, theta, float(settings["keep"])))
    save_policy(model, tokenizer, work.folder / "final", work, "Where the next round starts")
    work.watch.lap("merge")
    return {"merged": len(ends)}
