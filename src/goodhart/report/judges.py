"""How well the two judges do: preference models, or rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from goodhart.report import theme
from goodhart.report.grid import Grid, interval, listed, number
from goodhart.report.svg import titled, titled_bar
from goodhart.report.theme import Picture, Style

_STYLES = {"golden": Style(theme.ORANGE, "D", "-"), "proxy": Style(theme.SKY, "v", (0, (5, 2)))}
MANY_FLIPS = 0.25
"""From so many on, the share of order flips is said at the top: chance alone gives up to one half."""
_LEARNS = {"golden": "initial pairs", "proxy": "golden labels"}
_EXCHANGED = "held-out marks, each prompt with another's response (0.5 is right)"


def _of_marks(model: Mapping[str, Any]) -> bool:
    """Whether a judge was measured by marks of single responses."""
    return any("good" in quality for quality in (model.get("test", {}), model.get("train", {})))


def is_rule(record: Mapping[str, Any], role: str) -> bool:
    """Whether a judge is a rule, of which nothing was trained."""
    return "rule" in _judges(record)[role]


def _judges(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What is known of the study's two judges and of those of variants that differ from them."""
    return {role: record[role] for role in ("golden", "proxy")} | dict(record["variants"])


def rules_said(record: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each rule, with the judges that are it."""
    roles: dict[str, list[str]] = {}
    for role, judge in _judges(record).items():
        if is_rule(record, role):
            roles.setdefault(_rewards(judge), []).append(role)
    exploited = " Golden and the hidden measure are the same here, so that golden is exploited cannot be seen."
    return tuple(
        f"{_rule_names(names)} {rewards}" + (exploited if _hidden(record, names) else "")
        for rewards, names in roles.items()
    )


def _rule_names(roles: Sequence[str]) -> str:
    if len(roles) == 1:
        return f"The {roles[0]} judge is a rule and was not trained: it rewards"
    return f"The judges {listed(roles)} are one and the same rule, which was not trained: it rewards"


def _hidden(record: Mapping[str, Any], roles: Sequence[str]) -> bool:
    """Whether a golden judge among them is the hidden measure."""
    judges = _judges(record)
    return any(_is_golden(role) and judges[role]["rule"]["reward"] == "similarity" for role in roles)


def _rewards(judge: Mapping[str, Any]) -> str:
    rule, several = judge["rule"], judge["prompts with several lines"]
    noise = f", each score with an error of standard deviation {rule['noise']:g} that stays" if rule["noise"] else ""
    sentence = (
        f"{judge['meaning']}{noise}; of two responses the first is preferred with probability "
        f"sigmoid({rule['scale']:g} × the difference)."
    )
    if several:
        sentence += f" {several:,} prompts have several human lines, of which the nearest counts."
    return sentence


def measured(record: Mapping[str, Any], role: str) -> dict[str, dict[str, Any]]:
    """Every recorded quality of one model (`accuracy`, `low`, `high`, `flips`, `pairs`) by what it was measured on."""
    model = record[role]
    result: dict[str, dict[str, Any]] = {}
    learns = "marks" if _of_marks(model) else _LEARNS[role]
    if "test" in model:
        result[f"held-out {learns}"] = model["test"]
    if "exchanged" in model:
        result[_EXCHANGED] = model["exchanged"]
    kinds = model.get("test by kind", {})
    if len(kinds) > 1:
        result |= {f"held-out {learns}, only “{kind}”": quality for kind, quality in kinds.items()}
    result |= {f"probe: {kind}": quality for kind, quality in model.get("probes", {}).items()}
    trained = f"training pairs with {learns}" if is_rule(record, role) else "its own training pairs"
    trained = "training marks" if _of_marks(model) else trained
    return {**result, trained: model["train"]} if "train" in model else result


def doubts(record: Mapping[str, Any]) -> list[str]:
    """A sentence for each model that, on held-out pairs, judges no better than chance or by the order.

    Golden first: every win rate rests on it. Then the proxy, and the judges of variants. A golden rule is the truth by
    its definition, whatever the initial labels say.
    """
    models = {role: judge for role, judge in _judges(record).items() if "test" in judge}
    models = {role: model for role, model in models.items() if not (_is_golden(role) and is_rule(record, role))}
    return [sentence for role, model in models.items() if (sentence := _doubt(role, model))]


def _is_golden(role: str) -> bool:
    return role.partition(" (")[0] == "golden"


def _doubt(role: str, model: Mapping[str, Any]) -> str:
    given, exchanged = model["test"], model.get("exchanged")
    faults: list[str] = []
    if given["low"] <= 0.5:
        agreement = interval(given["accuracy"], given["low"], given["high"])
        worse = "worse than" if given["high"] < 0.5 else "not told from"
        what = "AUC on {:,} held-out marks" if _of_marks(model) else "agreement with {:,} held-out labels"
        faults.append(f"its {what.format(given['pairs'])}, {agreement}, is {worse} chance (0.5)")
    elif exchanged and exchanged["high"] >= given["low"] and exchanged["low"] > 0.5:
        faults.append(
            f"with the responses of other prompts its AUC is {number(exchanged['accuracy'])} in place of "
            f"{number(given['accuracy'])}: it tells good prompts from bad ones"
        )
    if given["flips"] >= MANY_FLIPS:
        faults.append(f"{given['flips']:.0%} of its verdicts flip with the order of the two responses")
    all_of = "every golden win rate" if role == "golden" else "every golden win rate of its variant"
    rests = all_of if _is_golden(role) else "what online arms learn"
    return f"Warning: {rests} rests on a poor judge, the {role} model: {listed(faults)}." if faults else ""


def quality_grid(record: Mapping[str, Any]) -> Grid:
    """Agreement with its interval and order flips of both judges."""
    rows: list[tuple[str, ...]] = []
    for role in ("golden", "proxy"):
        for what, quality in measured(record, role).items():
            agreement = interval(quality["accuracy"], quality["low"], quality["high"])
            flips, unit = ("none", " marks") if "good" in quality else (number(quality["flips"]), "")
            rows.append((role, what, agreement, flips, f"{quality['pairs']:,}{unit}"))
    note = (
        "Agreement: the share of pairs where the sign over both orders is the label's, ties one half, with its 95% "
        "Wilson interval. Order flips: the share of pairs where asking in one order alone names the other winner. In a "
        "probe the side that should win is known: the response to its own prompt, the human line, the text that is not "
        "degenerate."
    )
    if any(_of_marks(record[role]) for role in ("golden", "proxy")):
        note += (
            " Of marks agreement is the AUC: the share of all pairs of a good and a bad response, each to a prompt of "
            "its own, of which the good one has the higher score, ties one half, with its 95% score interval (Newcombe "
            "2006). It is one half for a judge that knows nothing, however many are good."
        )
    header = ("judge", "judged on", "agreement", "order flips", "pairs")
    return Grid("Agreement of the judges", header, tuple(rows), note)


def validation_picture(record: Mapping[str, Any], resolution: int) -> Picture:
    """Validation loss, accuracy and order flips at every look of the training, of the judges that were trained."""
    panels = (
        ("loss", "validation loss (nats)"),
        ("accuracy", "validation accuracy (golden: AUC)" if _of_marks(record["golden"]) else "validation accuracy"),
        ("flips", "share of order flips"),
    )
    trained = {role: style for role, style in _STYLES.items() if not is_rule(record, role)}
    with theme.canvas(9.0, 3.0) as figure:
        axes = figure.subplots(1, 3)
        for panel, (key, label) in zip(axes, panels, strict=True):
            for role, style in trained.items():
                looks = record[role]["looks"]
                step = [look["step"] for look in looks]
                value = [look[key] for look in looks]
                kept = int(np.argmin([look["loss"] for look in looks]))
                (line,) = panel.plot(
                    step, value, color=style.colour, ls=style.line, marker=style.marker, ms=4, label=f"{role} model"
                )
                each = [f"{role} model, step {s}: {label} {number(v)}" for s, v in zip(step, value, strict=True)]
                titled(line, f"{role} model", each)
                (ring,) = panel.plot(
                    step[kept], value[kept], marker="o", ms=11, mfc="none", mec=theme.INK, ls="none", mew=1.1,
                    label="kept" if role == list(trained)[-1] else None,
                )  # fmt: skip
                titled(ring, each=[f"{each[kept]}, kept"])
            panel.set_xlabel("optimiser steps")
            panel.set_ylabel(label)
        theme.legend_above(figure, axes[0])
        drawn = theme.drawn(figure, resolution)
    caption = (
        f"Validation curves of the {' and the '.join(trained)} model; a ring marks the look of lowest validation loss, "
        "whose weights are kept. Training stops when a set number of looks in a row (“patience” in the settings) "
        "find none that is lower."
    )
    return Picture("preference-models", "Training of the preference models", caption, drawn)


def _agreement(role: str, what: str, quality: Mapping[str, Any]) -> str:
    return f"{role}, {what}\nagreement {interval(quality['accuracy'], quality['low'], quality['high'])}"


def quality_picture(record: Mapping[str, Any], resolution: int) -> Picture:
    """Agreement with its interval for everything that a model was asked."""
    rows = [(role, what, q) for role in _STYLES for what, q in measured(record, role).items()]
    with theme.canvas(9.0, 0.9 + 0.27 * len(rows)) as figure:
        axes = figure.subplots()
        axes.axvline(0.5, color=theme.REFERENCE, lw=1, ls=":")
        for role, style in _STYLES.items():
            at = [i for i, row in enumerate(rows) if row[0] == role]
            value = np.array([rows[i][2]["accuracy"] for i in at])
            ends = np.array([[rows[i][2]["low"], rows[i][2]["high"]] for i in at]).reshape(-1, 2)
            error = np.maximum(np.stack([value - ends[:, 0], ends[:, 1] - value]), 0.0)
            bars = axes.errorbar(
                value, at, xerr=error, fmt=style.marker, color=style.colour, mec=theme.INK, mew=0.5, ms=6,
                capsize=3, label=f"{role} model",
            )  # fmt: skip
            titled_bar(bars, [_agreement(*rows[i]) for i in at])
        axes.set_yticks(range(len(rows)), [row[1] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("agreement (chance: 0.5)")
        theme.legend_above(figure, axes)
        drawn = theme.drawn(figure, resolution)
    caption = "Agreement with labels and probes, with 95% Wilson intervals; the dotted line is chance."
    return Picture("judgement", "What the judges can tell", caption, drawn)
