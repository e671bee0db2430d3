"""Model folders with wrong or missing parts, and ones that want to run code."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from campaign.hostile import changed, spoilt
from campaign.input_data import PICKLE


def write_model_folder(folder: Path, good: Path, draw: random.Random, canary: Path) -> Path:
    """A copy of a good model with something wrong."""
    shutil.copytree(good, folder)
    for _ in range(draw.choice((1, 1, 2))):
        draw.choice((_without, _spoilt, _mistyped, _mistyped, _trap, _trap))(folder, draw, canary)
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _without(folder: Path, draw: random.Random, _: Path) -> None:
    if _files(folder):
        draw.choice(_files(folder)).unlink()


def _spoilt(folder: Path, draw: random.Random, _: Path) -> None:
    path = draw.choice(_files(folder))
    path.write_bytes(spoilt(draw, path.read_bytes()))


def _mistyped(folder: Path, draw: random.Random, _: Path) -> None:
    texts = [path for path in _files(folder) if path.suffix == ".json"]
    if texts:
        path = draw.choice(texts)
        _edit(path, lambda data: changed(draw, data))


def _edit(path: Path, change: Any) -> None:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    path.write_bytes(json.dumps(change(data)).encode(errors="replace"))


def _trap(folder: Path, draw: random.Random, canary: Path) -> None:
    """Code that a careless reader of models would run."""
    code = f"import pathlib\npathlib.Path({str(canary)!r}).touch()\nclass Evil:\n    pass\n"
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoTokenizer", "AutoModel")
    mapped = dict.fromkeys(names, "evil.Evil")
    (folder / "evil.py").write_text(code)
    system = f"os.system('touch {canary}')"
    templates = (
        "{{ cycler.__init__.__globals__.os.system('touch " + str(canary) + "') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for i in range(10 ** 12) %}x{% endfor %}",
        "{{ messages[0].__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('\x1b[31mno') }}",
        "{% broken",
    )
    kind = draw.randrange(10)
    if kind == 0:
        _edit(folder / "config.json", lambda data: {**data, "auto_map": mapped})
    elif kind == 1:
        changes = {"auto_map": mapped, "model_type": "evil", "architectures": ["Evil"]}
        _edit(folder / "config.json", lambda data: {**data, **changes})
    elif kind == 2:
        tokens = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
        _edit(folder / "tokenizer_config.json", lambda data: {**data, **tokens})
    elif kind == 3:
        (folder / "chat_template.jinja").write_text(draw.choice(templates))
    elif kind == 4:
        _edit(folder / "tokenizer_config.json", lambda data: {**data, "chat_template": draw.choice(templates)})
    elif kind == 5:
        (folder / "model.safetensors").write_bytes(PICKLE.replace(b"CANARY", str(canary).encode()))
    elif kind == 6:
        (folder / "model.safetensors").unlink(missing_ok=True)
        (folder / "pytorch_model.bin").write_bytes(PICKLE.replace(b"CANARY", str(canary).encode()))
    elif kind == 7:
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "../../../etc/passwd"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif kind == 8:
        (folder / "custom_generate").mkdir(exist_ok=True)
        (folder / "custom_generate" / "generate.py").write_text(code + system)
    else:
        big = {draw.choice(("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")): 10**9}
        _edit(folder / "config.json", lambda data: {**data, **big})
