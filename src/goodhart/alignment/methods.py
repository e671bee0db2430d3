"""The field's methods as rows of one table: most of them replace one thing in another. Nothing here imports torch."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, replace

from goodhart.alignment.method import Method, Term
from goodhart.config import essential
from goodhart.errors import GoodhartError


@dataclass(frozen=True)
class Row:
    """A method with what a reader should know of it."""

    method: Method
    title: str
    formula: str
    """What it minimises, in the words of `goodhart.alignment.losses`."""
    papers: str
    """arXiv ids, and whose the defaults are."""
    beta: float | None = None
    """The default; None where it has none."""
    family: str = "margins"
    notes: str = ""
    """What is not verified, reconstructed, or done otherwise than at its source."""
    tests: tuple[str, ...] = ("loss_forms", "method_runs")
    """The files of tests that hold it, beside that of the table."""


IPO = Method("data", "data")
DPO = replace(IPO, loss="dpo")
ONLINE_IPO = Method()
ONLINE_DPO = replace(ONLINE_IPO, loss="dpo")
KTO = replace(IPO, loss="kto", parameters={"desirable": 1.0, "undesirable": 1.0})
RLOO = Method(loss="rloo", parameters={"kl": 0.05, "clip": 0.2})
REINFORCE = Method(drawn=("policy",), loss="reinforce", parameters={"kl": 0.05})
PPO = Method(
    drawn=("policy",),
    loss="ppo",
    epochs=4,
    parameters={"kl": 0.05, "clip": 0.2, "discount": 1.0, "smoothing": 0.95, "value_lr": 1e-4},
)
_FOLLOWING = {"reference_rate": 0.6, "reference_every": 512.0}
_FAMILY = "f(beta (rho_w - rho_l)), f(z) = "


def _following(method: Method) -> Method:
    """The method with a reference that moves softly."""
    return replace(method, reference="moving", parameters={**method.parameters, **_FOLLOWING})


def _with(method: Method, term: Term, **parameters: float) -> Method:
    """The method with an extra term, and its parameters."""
    return replace(method, terms=(*method.terms, term), parameters={**method.parameters, **parameters})


METHODS: dict[str, Row] = {
    "ipo": Row(IPO, "IPO", f"{_FAMILY}(z - 1/2)^2", "2310.12036; form of 2405.08448", 0.1),
    "ipo-mean": Row(
        replace(IPO, reduction="mean"),
        "IPO per token",
        "IPO with log-ratios divided by their token counts",
        "2310.12036; the division is that of the libraries",
        0.1,
        notes="The paper sums over tokens.",
    ),
    "dpo": Row(DPO, "DPO", f"{_FAMILY}log(1 + exp(-z))", "2305.18290", 0.1),
    "gpo-squared": Row(replace(IPO, loss="squared"), "GPO, squared", f"{_FAMILY}(z - 1)^2", "2402.05749", 0.1),
    "gpo-hinge": Row(replace(IPO, loss="hinge"), "GPO, hinge", f"{_FAMILY}max(0, 1 - z)", "2402.05749", 0.1),
    "gpo-exponential": Row(
        replace(IPO, loss="exponential"),
        "GPO, exponential",
        f"{_FAMILY}exp(-z)",
        "2402.05749",
        0.1,
        notes="The scaling of f at its source is not verified.",
    ),
    "gpo-truncated": Row(
        replace(IPO, loss="truncated"),
        "GPO, truncated quadratic",
        f"{_FAMILY}max(0, 1 - z)^2",
        "2402.05749",
        0.1,
        notes="The scaling of f at its source is not verified.",
    ),
    "gpo-savage": Row(
        replace(IPO, loss="savage"),
        "GPO, Savage",
        f"{_FAMILY}1 / (1 + exp(z))^2",
        "2402.05749",
        0.1,
        notes="The scaling of f at its source is not verified.",
    ),
    "slic": Row(
        _with(
            Method("data", "data", loss="slic", reference="none", parameters={"delta": 1.0}),
            Term(("-nll",), "log policy", "chosen"),
            nll=0.1,
        ),
        "SLiC-HF",
        "max(0, delta - log pi(y_w) + log pi(y_l)) - nll log pi(y_w)",
        "2305.10425; defaults of HALOs",
    ),
    "simpo": Row(
        Method("data", "data", loss="simpo", reduction="mean", reference="none", parameters={"gamma": 1.375}),
        "SimPO",
        "-log sigmoid(beta (log pi(y_w)/|y_w| - log pi(y_l)/|y_l|) - gamma)",
        "2405.14734; defaults of TRL's recipe",
        2.5,
    ),
    "cdpo": Row(
        replace(DPO, loss="conservative", parameters={"noise": 0.1}),
        "conservative DPO",
        "(1 - noise) f(z) + noise f(-z), f of DPO",
        "E. Mitchell's note, 2023; the default is ours",
        0.1,
    ),
    "robust-dpo": Row(
        replace(DPO, loss="robust", parameters={"noise": 0.1}),
        "noise-robust DPO",
        "((1 - noise) f(z) - noise f(-z)) / (1 - 2 noise), f of DPO",
        "2403.00409; the default is ours",
        0.1,
    ),
    "best-of-2": Row(
        replace(IPO, loss="best-of-2"),
        "best of two",
        "-log pi(y_w)",
        "2405.08448, equation 3",
        family="single responses",
    ),
    "kto": Row(
        KTO,
        "KTO",
        "1 - sigmoid(beta (rho - z)) of good, 1 - sigmoid(beta (z - rho)) of bad responses, z the batch's KL",
        "2402.01306; defaults of TRL",
        0.1,
        "single responses",
        "The preferred response of a pair is a good one, the other a bad one.",
    ),
    "dro-v": Row(
        Method("data", "data", loss="dro", parameters={"value_lr": 1e-4}),
        "DRO-V",
        "(r - V(x) - beta rho)^2 / (2 beta), V learnt on (r - V(x) - beta rho)^2 / 2",
        "2405.19107",
        1.0,
        "single responses",
        "A pair's labels are the rewards, 1 and -1.",
    ),
    "online-ipo": Row(
        ONLINE_IPO, "online IPO", "IPO on two samples of the policy", "2405.08448, 2403.08635", 0.1, "online"
    ),
    "online-dpo": Row(
        ONLINE_DPO, "online DPO (OAIF)", "DPO on two samples of the policy", "2402.04792; default of TRL", 0.1, "online"
    ),
    "semi-online-dpo": Row(
        replace(ONLINE_DPO, drawn=("policy",) * 8, selection="best and worst", refresh=10),
        "semi-online DPO",
        "DPO on the best against the worst of 8 samples of a policy that is renewed every 10 steps",
        "2506.21495",
        0.01,
        "online",
        "The number of samples is ours.",
    ),
    "ipo-md": Row(
        replace(ONLINE_IPO, drawn=("mixture", "mixture"), mode="soft", parameters={"share": 0.125}),
        "IPO-MD",
        "IPO on two samples of pi^(1 - share) ref^share, token by token, with soft labels",
        "2403.08635; the default is another's toy",
        0.1,
        "online",
        "The paper's tables are not verified.",
    ),
    "nash-md": Row(
        Method(loss="nash-md", drawn=("policy", "mixture"), mode="soft", parameters={"share": 0.5}),
        "Nash-MD",
        "-(p(y > y') - 1/2 - beta sg[rho(y)]) log pi(y), y' from pi^(1 - share) ref^share",
        "2312.00886; defaults of TRL",
        0.1,
        "online",
        "The KL is of whole responses, which is unbiased; TRL's product token by token is not.",
    ),
    "rebel": Row(
        Method(loss="rebel", epochs=4, parameters={"eta": 1.0, "kl": 0.05}),
        "REBEL",
        "((l_1 - l_2) - eta (R_1 - R_2))^2, l = log pi - log pi_t, R = r - kl (log pi_t - log ref)",
        "2404.16767 and its code",
        None,
        "online",
    ),
    "reinforce": Row(
        REINFORCE,
        "REINFORCE",
        "-sg[R - B] log pi(y), R = r - kl rho, B the mean of the batch's other R",
        "2402.14740",
        None,
        "online",
        tests=("loss_forms", "properties", "method_runs"),
    ),
    "rloo": Row(
        RLOO,
        "RLOO",
        "-min(c A, clamp(c, 1 - clip, 1 + clip) A), A = R - mean of the other responses' R, R = r - kl rho",
        "2402.14740; defaults of TRL",
        None,
        "online",
        tests=("loss_forms", "properties", "method_runs"),
    ),
    "ppo": Row(
        PPO,
        "PPO",
        "-min(c A, clamp(c, 1 - clip, 1 + clip) A) of each token, A by a critic (generalised advantage)",
        "1707.06347; defaults of 2404.08495's code",
        None,
        "online",
        "The KL is part of the reward, token by token. The critic's learning rate is ours.",
    ),
    "grpo": Row(
        Method(drawn=("policy",) * 8, loss="grpo", parameters={"kl": 0.04, "clip": 0.2}),
        "GRPO",
        "-min(c A, clamp(c) A) + kl (q - log q - 1) of each token, A = (r - mean r) / std r over 8 responses",
        "2402.03300; responses of TRL",
        None,
        "online",
    ),
    "raft": Row(
        Method(drawn=("policy",) * 4, selection="best", loss="likelihood", reference="none"),
        "RAFT",
        "-log pi(y), y the best of 4 samples of the policy",
        "2304.06767; the number of samples is ours",
        None,
        "online",
    ),
    "bond": Row(
        Method(
            loss="bond", drawn=("policy", "reference", "reference", "reference", "reference"), parameters={"mix": 0.5}
        ),
        "BOND",
        "(1 - mix) -log pi(best of y_1..y_N) - mix (R - B) log pi(y), R = (N - 1) log p(r(y_i) <= r(y)) - rho(y)",
        "2407.14622; N = 4 is ours",
        None,
        "online",
        "N is the number of responses drawn from the reference, which are also those that estimate p.",
        tests=("loss_forms", "properties", "method_runs"),
    ),
    "j-bond": Row(
        Method(
            loss="j-bond",
            drawn=("policy", "reference", "reference"),
            reference="moving",
            parameters={"mix": 0.5, "pull": 1.0, "reference_rate": 0.02, "reference_every": 1.0},
        ),
        "J-BOND",
        "(1 - mix) -log pi(best of 2 of the anchor) - mix (R - B) log pi(y) + pull sg[rho(y)] log pi(y)",
        "2407.14622",
        None,
        "online",
        "The sign of the last term is the one that lowers the KL to the anchor; the text prints the other.",
    ),
    "vpo-offline": Row(
        _with(DPO, Term(("-alpha", "beta")), alpha=0.01),
        "VPO, offline",
        "DPO - alpha beta E[rho(y)], y from the reference (pessimism)",
        "2405.19320; the default is ours",
        0.1,
        "exploration",
        "Equation numbers, alpha and the calibration policy of the experiments are not verified.",
        tests=("loss_forms", "properties", "method_runs"),
    ),
    "vpo-online": Row(
        _with(replace(ONLINE_DPO, buffer=True), Term(("alpha", "beta")), alpha=0.01),
        "VPO, online",
        "DPO on all pairs that the policy has drawn so far + alpha beta E[rho(y)], y from the reference (optimism)",
        "2405.19320; the default is ours",
        0.1,
        "exploration",
        "Who draws the pairs, and alpha, are not verified. A step adds its pairs and learns from as many of all.",
        tests=("loss_forms", "properties", "buffer", "method_runs"),
    ),
    "xpo": Row(
        _with(
            replace(ONLINE_DPO, drawn=("policy", "reference")),
            Term(("alpha",), "log policy", "drawn", 1, 1),
            alpha=1e-5,
        ),
        "XPO",
        "DPO on a sample of the policy and one of the reference, + alpha log pi(the latter)",
        "2405.21046; defaults of TRL",
        0.1,
        "exploration",
        "It learns from the pairs of the step, as the libraries do.",
    ),
    "selm": Row(
        replace(
            _with(
                replace(ONLINE_DPO, drawn=("first", "second", "reference"), selection="best and worst"),
                Term(("alpha", "beta"), "log ratio", "drawn", 1, 2),
                alpha=0.001,
            ),
            reference="moving",
            parameters={"alpha": 0.001, "reference_rate": 1.0, "reference_every": 32.0},
        ),
        "SELM",
        "DPO on the best and worst of the data's pair and a sample y of the reference, + alpha beta rho(y)",
        "2405.19332 and its code",
        0.01,
        "exploration",
        "The reference is copied every 32 steps, its portion of the data being ours; y is a sample, where the code "
        "decodes greedily.",
    ),
    "tr-dpo": Row(
        _following(DPO),
        "TR-DPO",
        "DPO, ref <- (1 - rate) ref + rate pi every reference_every steps; rate 1 is the hard update",
        "2404.09656; defaults of TRL's recipe",
        0.05,
        "reference rules",
        "Whether the paper sets both defaults together is not verified.",
    ),
    "tr-ipo": Row(_following(IPO), "TR-IPO", "IPO with the reference of TR-DPO", "2404.09656", 0.1, "reference rules"),
    "tr-kto": Row(_following(KTO), "TR-KTO", "KTO with the reference of TR-DPO", "2404.09656", 0.1, "reference rules"),
    "dpo-free": Row(
        replace(DPO, reference="none"),
        "reference-free DPO",
        "DPO of beta log pi: a uniform reference (maximum entropy)",
        "2407.13709",
        0.01,
        "reference rules",
    ),
    "dpo-prior": Row(
        replace(DPO, reference="prior"),
        "DPO against the unconditional prior",
        "DPO of beta (log pi(y|x) - log p(y))",
        "2407.13709",
        0.01,
        "reference rules",
    ),
    "dpo-external": Row(
        replace(DPO, reference="external"),
        "DPO against another model",
        "DPO of beta (log pi - log of another variant's SFT policy), which the arm names by `external`",
        "2407.13709",
        0.01,
        "reference rules",
    ),
    "typo": Row(
        _with(replace(DPO, reference="none"), Term(("-pull",), "log policy"), pull=0.1),
        "TYPO",
        "-log sigmoid(log pi(y_w) - log pi(y_l)) - pull E[log pi(y)], y from the reference",
        "2407.09072; the default is ours",
        1.0,
        "reference rules",
        "A reconstruction that meets the desiderata: the printed formula is not verified. Its beta is 1.",
        tests=("loss_forms", "properties", "method_runs"),
    ),
    "dice": Row(
        replace(
            ONLINE_DPO,
            labeller="itself",
            drawn=("policy",) * 16,
            selection="best and worst",
            refresh=32,
            reference="moving",
            parameters={"replay": 0.5, "reference_rate": 1.0, "reference_every": 32.0},
        ),
        "DICE",
        "DPO on the best and worst of 16 samples by log pi_{t-1}(y) - log pi_{t-2}(y) - alpha |y|, with replay of data",
        "2406.09760 and its code; the steps of a round are ours",
        0.1,
        "hybrids",
        "It is meant to begin at a policy that DPO has tuned (start: ARM@STEP). refresh and reference_every are a "
        "round's steps and belong together.",
        ("self_labelled", "method_runs"),
    ),
    "warp": Row(
        replace(
            REINFORCE,
            reference="moving",
            merge="slerp",
            runs=2,
            rounds=3,
            parameters={"kl": 0.1, "reference_rate": 0.01, "reference_every": 1.0, "keep": 0.3},
        ),
        "WARP",
        "REINFORCE with the policy's moving average as its reference; runs merged by SLERP, rounds by LITI",
        "2406.16768",
        None,
        "weight space",
        "Checkpoints are points of the way from SFT to the last merged policy. The baseline is REINFORCE's.",
        ("loss_forms", "merging", "method_runs"),
    ),
    "merged-dpo": Row(
        replace(DPO, merge="linear", runs=2, parameters={"keep": 1.0}),
        "merged DPO",
        "the mean of the weights of two runs of DPO",
        "linear merging, as WARP's baseline in 2406.16768",
        0.1,
        "weight space",
        tests=("loss_forms", "merging", "method_runs"),
    ),
    "averaged-dpo": Row(
        replace(DPO, average=True, parameters={"average_rate": 0.01}),
        "averaged DPO",
        "the moving average of the weights of a run of DPO is what is kept",
        "evaluation-time averaging; the default is that of 2406.16768's anchor",
        0.1,
        "weight space",
        tests=("loss_forms", "merging", "method_runs"),
    ),
    "hypo": Row(
        _with(DPO, Term(("pull",), "divergence", "policy", 2), pull=0.01),
        "HyPO",
        "DPO + pull KL(pi || ref), the latter on two samples of the policy",
        "2406.01462; the defaults are ours",
        0.1,
        "hybrids",
        "pull, beta and the number of samples are not verified.",
        tests=("loss_forms", "properties", "method_runs"),
    ),
    "h2o-ipo": Row(
        replace(ONLINE_IPO, loss="weighed", parameters={"replay": 0.5, "classifier_lr": 3e-4}),
        "online IPO weighed after H2O",
        "w f(beta (rho_w - rho_l)), f of IPO; w = min(1, p_data(label | x, y1, y2) / p_proxy(label | x, y1, y2))",
        "our proposal after 2206.13464; the learning rate and the bound of w are its code's",
        0.1,
        "hybrids",
        "A proposal, not a published method: two classifiers tell the data's labelled pairs from the policy's, and the "
        "policy's weigh less where their labels are what the data would not have said. Half of a batch are data. "
        "H2O's penalty on Q is left out.",
        ("channel", "method_runs"),
    ),
    "dr-po": Row(
        replace(PPO, parameters={**PPO.parameters, "prefix": 1.0}),
        "DR-PO",
        "PPO on what the policy writes behind h ~ U{1..L-1} tokens of a preferred response",
        "2404.08495 and its code",
        None,
        "hybrids",
        "The critic sees only what was written, where the code's value loss runs over the forced tokens too.",
        tests=("loss_forms", "properties", "method_runs"),
    ),
}
"""By the name that a study file knows them by."""


def explained(name: str) -> list[tuple[str, str]]:
    """(label, text) of all that is to be said of a method. Raises GoodhartError for an unknown one."""
    result = row(name)
    slots = essential(result.method)
    parameters = {**({"beta": result.beta} if result.beta is not None else {}), **slots.pop("parameters", {})}
    said = [
        ("method", f"{name}: {result.title} ({result.family})"),
        ("minimises", result.formula),
        ("source", result.papers),
        ("slots", ", ".join(f"{key}: {json.dumps(value)}" for key, value in slots.items()) or "those of online IPO"),
        ("defaults", ", ".join(f"{key} {value:g}" for key, value in parameters.items()) or "none"),
        ("learns from", f"{result.method.kind.supervision}; {_responses(result.method)}"),
        ("notes", result.notes),
        ("tests", ", ".join(f"tests/test_{each}.py" for each in ("methods", *result.tests))),
    ]
    return [(label, text) for label, text in said if text]


def _responses(method: Method) -> str:
    if method.source != "policy":
        return "the data set's two responses to a prompt"
    return "responses to a prompt: " + ", ".join(method.drawn)


def row(name: str) -> Row:
    """The method of that name, of the package or of what is installed beside it.

    Raises GoodhartError for an unknown one.
    """
    if name not in METHODS:
        from goodhart.alignment.extensions import announced

        announced()
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see 'goodhart list methods'"
        raise GoodhartError(f"there is no method {name!r}", hint)
    return METHODS[name]
