"""What a study may not be: combinations of settings that have no meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goodhart.analysis.hypotheses import PROXY, Hypothesis, League
from goodhart.config import canonical, plain_data
from goodhart.errors import GoodhartError
from goodhart.recipes.arm import settings_of
from goodhart.recipes.settings import PREFERENCES
from goodhart.recipes.slots import asks_proxy, records
from goodhart.studies.arms import validate_arms
from goodhart.studies.plan import GOLDEN_POLICY, SFT, sft_of
from goodhart.studies.shared import refuse_unshared
from goodhart.studies.tabular import refuse_arms
from goodhart.tasks.pair_rules import ALONE

if TYPE_CHECKING:
    from goodhart.studies.spec import Study


def validate(study: Study) -> None:
    """Raises GoodhartError for what cannot be run."""
    if not study.name.replace("-", "").replace("_", "").isalnum():
        raise GoodhartError(f"study name {study.name!r} is not a plain word", "use letters, digits, '-' and '_'")
    if not study.arms or not study.seeds or len(set(study.seeds)) != len(study.seeds):
        raise GoodhartError("the study has no arms or no distinct seeds", "give at least one of each")
    taken = {SFT, GOLDEN_POLICY, PROXY, *study.all_arms[len(study.arms) :], *map(sft_of, study.variants)}
    for name in taken & set(study.arms):
        raise GoodhartError(f"arm {name!r} has the name of something else in the tables", "rename it")
    if study.world:
        refuse_arms(study)
    validate_arms(study.arms, set(study.variants))
    study.executor.validate()
    refuse_unshared(study)
    if study.looks:
        study.looks.validate(len(study.seeds))
    for name, hypothesis in study.hypotheses.items():
        hypothesis.validate(name, tuple(study.all_arms))
        _one_judge(study, name, hypothesis)
        _streams(study, name, hypothesis)
    for name, axis in study.axes.items():
        axis.validate(name, tuple(study.all_arms))
    for name, each in study.maps.items():
        each.validate(name, study.hypotheses)
    if study.league:
        _league(study, study.league)
    if study.world:
        study.world.validate()
        return
    _best_of(study)
    _labels(study)
    _judges(study)
    _rewards(study)
    _golden_policy(study)
    study.task.validate()
    if study.task.kind != PREFERENCES:
        _pool(study)


def _one_judge(study: Study, name: str, hypothesis: Hypothesis) -> None:
    for i, contrast in enumerate(hypothesis.contrasts):
        if len({canonical(plain_data(study.judge_of(arm))) for arm in contrast.arms}) > 1:
            raise GoodhartError(
                f"hypotheses.{name}.contrasts[{i}] compares arms of different judges",
                "what one judge measures says nothing of what another does; name arms of one",
            )


def _league(study: Study, league: League) -> None:
    """One judge measures all, and all have the seeds that the file says, whatever they show."""
    league.validate(tuple(study.arms))
    methods = league.of(tuple(study.arms)).methods
    for arm in methods:
        if study.judge_of(arm) != study.judge_of(league.baseline):
            raise GoodhartError(
                f"the league ranks {arm!r} and {league.baseline!r}, which have different judges",
                "what one judge measures says nothing of what another does; name arms of one in league.methods",
            )
    if study.looks:
        raise GoodhartError(
            "the study has a league and looks, and with looks the seeds of an arm depend on what it shows",
            "leave `looks` out and list the seeds, or leave `league` out",
        )


def _streams(study: Study, name: str, hypothesis: Hypothesis) -> None:
    """A stream is what a run recorded; who classifies it has the reference whose log-probabilities it keeps."""
    for i, contrast in enumerate(hypothesis.contrasts):
        if not contrast.stream:
            continue
        recorded = study.arms.get(contrast.stream)
        others = [study.arms.get(arm) for arm in contrast.arms]
        if recorded is None or not records(recorded.method) or recorded.method.reduction != "sum" or None in others:
            raise GoodhartError(
                f"hypotheses.{name}.contrasts[{i}] classifies the stream of {contrast.stream!r} by "
                f"{contrast.first!r} and {contrast.second!r}",
                "name an arm that samples from its policy, with reduction sum, and trained arms or the proxy",
            )
        if any(other and other.variant != recorded.variant for other in others):
            raise GoodhartError(
                f"hypotheses.{name}.contrasts[{i}] names arms of different variants", "a stream has one reference"
            )


def _labels(study: Study) -> None:
    main = {"labels": study.labels}
    for name, labels in (main | {f"variants.{n}.labels": v.labels for n, v in study.variants.items()}).items():
        if labels and not 0 <= labels.flip < 0.5:
            raise GoodhartError(f"{name}: flip is {labels.flip}", "give a probability below one half")
        if labels:
            labels.validate(name)
        if labels and not labels.of:
            raise GoodhartError(f"{name}.of is empty", "name kinds of pairs, for example [samples]")
        if labels and study.task.kind == PREFERENCES and labels.of != type(labels)().of:
            raise GoodhartError(
                f"{name}.of names kinds of initial pairs, and data of people has none", f"leave {name}.of out"
            )


def _judges(study: Study) -> None:
    """What the judges' kinds ask for; the truth has no noise."""
    for name, judge in study.judges.items():
        judge.validate(name)
        if judge.kind == "pairwise" and study.task.pairs == ALONE and name.endswith("golden"):
            raise GoodhartError(
                f"task.pairs is {ALONE!r}, and {name}.kind is pairwise, which learns from pairs alone",
                f"set {name}.kind=bradley-terry, which has a score for each response",
            )
        if judge.rule and judge.rule.reward == "similarity" and study.task.kind == PREFERENCES:
            raise GoodhartError(
                f"{name}.rule.reward is similarity, and data of people has no human line apart from its pairs",
                "choose another reward, or a built-in task",
            )
    if study.golden.rule and study.golden.rule.noise:
        raise GoodhartError(
            f"golden.rule.noise is {study.golden.rule.noise}, and golden stands for the truth",
            "set the noise of proxy.rule, or labels.flip",
        )


def _rewards(study: Study) -> None:
    """A judge that compares gives no reward to a response that stands alone."""
    for name, arm in study.arms.items():
        variant = study.variants.get(arm.variant)
        proxy = (variant and variant.proxy) or study.proxy
        alone = arm.method.kind.supervision == "reward" and len(arm.method.drawn) == 1
        if alone and arm.method.source == "policy" and asks_proxy(arm.method) and proxy.kind == "pairwise":
            raise GoodhartError(
                f"arm {name!r} learns from the reward of one response a prompt, and its proxy compares two",
                "set proxy.kind=bradley-terry, or draw more responses (drawn: [policy, policy])",
            )
    for name, arm in study.arms.items():
        if arm.method.external and arm.method.external not in study.variants:
            known = ", ".join(study.variants) or "none"
            raise GoodhartError(
                f"arm {name!r} has the external reference {arm.method.external!r}, which is no variant",
                f"known: {known}",
            )


def _golden_policy(study: Study) -> None:
    arm = study.golden_policy
    arm.validate("golden policy", judge_may_train=True)
    if (arm.method.source, arm.method.labeller, arm.variant) != ("policy", "golden", ""):
        raise GoodhartError(
            f"the golden policy has source {arm.method.source!r}, labeller {arm.method.labeller!r} and variant "
            f"{arm.variant!r}",
            "it samples from itself, the golden model labels, and it is one for all variants",
        )
    if len(list(settings_of(arm))) != 1:
        raise GoodhartError("the golden policy sweeps beta or lr", "give it one beta and one lr: it is one baseline")


def _pool(study: Study) -> None:
    """What the initial pairs of a built-in task need."""
    pool = study.pool
    shares = (pool.samples, pool.early, pool.human, pool.mismatched, pool.degenerate)
    if abs(sum(shares) - 1) > 1e-9 or min(shares) < 0:
        raise GoodhartError(f"the pool's shares are {shares}", "they must be non-negative and add up to 1")
    if not pool.temperatures:
        raise GoodhartError("pool.temperatures is empty", "give at least one, for example [1.0]")
    if study.sft.early > study.sft.steps:
        raise GoodhartError(
            f"sft.early is {study.sft.early}, behind the last of {study.sft.steps} steps",
            f"set sft.early={max(1, study.sft.steps // 3)}, or raise sft.steps",
        )


def _best_of(study: Study) -> None:
    best = study.best_of
    if best.samples and (not best.n or not best.judges or not 1 <= min(best.n) <= max(best.n) <= best.samples):
        raise GoodhartError(
            f"best_of takes the best of {list(best.n)} by {list(best.judges)} from {best.samples} samples",
            "give judges, and every n between 1 and the number of samples",
        )
