"""A made-up study in which every text that data, names, files or machines decide is hostile."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OURS = {
    *("statistic", "measure", "split", "predicted", "first", "second", "stream", "kind", "source", "labeller", "loss"),
    *("reduction", "mode", "decay", "lines", "arms", "verdict", "id"),
}
"""Keys whose values the lab's code understands: they come from no one else."""
NAMES = {"left out", "packages", "files", "kinds"}
"""Mappings whose keys are data, too."""


def payloads(port: int) -> tuple[str, ...]:
    """Texts that would run a script, leave the page or send a request, if any were taken for more than text."""
    url = f"http://127.0.0.1:{port}"
    run = f"document.title='OWNED';fetch('{url}/fetched')"
    return (
        f"<script>{run}</script>",
        f'<img src=x onerror="{run}">',
        f"</title><script>{run}</script>",
        f"</style><script>{run}</script><style>",
        f'</pre></bdi></dd><svg onload="{run}">',
        f'"><script>{run}</script>',
        f"' autofocus onfocus='{run}' x='",
        f"<img src='{url}/image.png'>",
        f"<link rel=stylesheet href='{url}/style.css'>",
        f"<meta http-equiv=refresh content='0;url={url}/refreshed'>",
        f"<base href='{url}/'><a href=x>x</a>",
        f"<iframe src='{url}/frame'></iframe><object data='{url}/object'></object>",
        f"<style>@import '{url}/import.css'; * {{ background: url({url}/back.png) }}</style>",
        f"<form action='{url}/form'><input autofocus></form><script>document.forms[0].submit()</script>",
        f"javascript:{run}//",
        f"--><!--<script>{run}</script>",
        f"]]><script>{run}</script>",
        "{{ 7 * 7 }}{% raw %}{{ ''.__class__.__mro__ }}",
        f"+ADw-script+AD4-{run}+ADw-/script+AD4-",
        f"\x00<scr\x00ipt>{run}</script>",
        f"<script\u2028>{run}</script>\ud800",
        f"\x1b]8;;{url}/link\x07text\x1b]8;;\x07",
        "$\\frac{$_{^ \\includegraphics{/etc/passwd}$",
        "&lt;script&gt;&#60;script&#62;&amp",
        "\u202e<b>x</b>" * 3,
    )


def write_spiced(folder: Path, texts: Iterator[str]) -> Path:
    """The study's folder; every hostile place takes the next of the texts."""
    from synthetic_study import Made, make_study

    arms = (f"online {next(texts)}"[:200], f"_[bold]offline {next(texts)}"[:200])
    arms = tuple(arm.replace("\x00", "").encode(errors="replace").decode() for arm in arms)
    contrast = {"statistic": "gap at equal KL", "first": arms[0], "second": arms[1]}
    made = Made(
        arms=arms,
        spice=next(texts).replace("\ud800", ""),
        prompts=12,
        train_prompts=4,
        pairs=8,
        steps=(20, 40),
        hypotheses={f"H1 {next(texts)}": {"statement": next(texts), "contrasts": [contrast]}},
        axes={f"axis {next(texts)}": {"label": next(texts), "lines": {next(texts): {arms[0]: 1, arms[1]: 4}}}},
    )
    make_study(folder, made)
    path = folder / "record.json"
    record = json.loads(path.read_text())
    record = spiced(record, lambda: next(texts), set(arms))
    path.write_text(json.dumps(record), encoding="utf-8")
    return folder


def spiced(data: Any, text: Callable[[], str], kept: set[str], key: str = "") -> Any:
    """The record with a hostile text behind each of its texts that is not the lab's own."""
    if isinstance(data, dict):
        return {
            f"{name} {text()}" if key in NAMES else name: each if name in OURS else spiced(each, text, kept, name)
            for name, each in data.items()
        }
    if isinstance(data, list):
        return [spiced(each, text, kept, key) for each in data]
    return f"{data} {text()}" if isinstance(data, str) and data not in kept and key != "anchors" else data


def rotations(port: int, number: int) -> list[Iterator[str]]:
    """As many endless orders of the payloads: in each of them a place gets another one."""
    texts = payloads(port)
    return [itertools.islice(itertools.cycle(texts), start, None) for start in range(number)]
