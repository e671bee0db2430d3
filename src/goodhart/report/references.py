"""The papers that methods come from, as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable

PAPER = "2405.08448"
"""The protocol that every study follows."""
_PAPERS = {
    "1707.06347": ("Schulman, John", "Proximal Policy Optimization Algorithms"),
    "2206.13464": ("Niu, Haoyi", "When to Trust Your Simulator: Dynamics-Aware Hybrid Offline-and-Online RL"),
    "2304.06767": ("Dong, Hanze", "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment"),
    "2305.10425": ("Zhao, Yao", "SLiC-HF: Sequence Likelihood Calibration with Human Feedback"),
    "2305.18290": (
        "Rafailov, Rafael",
        "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    ),
    "2310.12036": (
        "Azar, Mohammad Gheshlaghi",
        "A General Theoretical Paradigm to Understand Learning from Human Preferences",
    ),
    "2312.00886": ("Munos, R\u00e9mi", "Nash Learning from Human Feedback"),
    "2402.01306": ("Ethayarajh, Kawin", "KTO: Model Alignment as Prospect Theoretic Optimization"),
    "2402.03300": (
        "Shao, Zhihong",
        "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
    ),
    "2402.04792": ("Guo, Shangmin", "Direct Language Model Alignment from Online AI Feedback"),
    "2402.05749": ("Tang, Yunhao", "Generalized Preference Optimization: A Unified Approach to Offline Alignment"),
    "2402.14740": (
        "Ahmadian, Arash",
        "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
    ),
    "2403.00409": (
        "Ray Chowdhury, Sayak",
        "Provably Robust DPO: Aligning Language Models with Noisy Feedback",
    ),
    "2403.08635": (
        "Calandriello, Daniele",
        "Human Alignment of Large Language Models through Online Preference Optimisation",
    ),
    "2404.08495": ("Chang, Jonathan D.", "Dataset Reset Policy Optimization for RLHF"),
    "2404.09656": ("Gorbatovski, Alexey", "Learn Your Reference Model for Real Good Alignment"),
    "2404.16767": ("Gao, Zhaolin", "REBEL: Reinforcement Learning via Regressing Relative Rewards"),
    PAPER: (
        "Tang, Yunhao",
        "Understanding the performance gap between online and offline alignment algorithms",
    ),
    "2405.14734": ("Meng, Yu", "SimPO: Simple Preference Optimization with a Reference-Free Reward"),
    "2405.19107": (
        "Richemond, Pierre Harvey",
        "Offline Regularised Reinforcement Learning for Large Language Models Alignment",
    ),
    "2405.19320": (
        "Cen, Shicong",
        "Value-Incentivized Preference Optimization: A Unified Approach to Online and Offline RLHF",
    ),
    "2405.19332": (
        "Zhang, Shenao",
        "Self-Exploring Language Models: Active Preference Elicitation for Online Alignment",
    ),
    "2405.21046": (
        "Xie, Tengyang",
        "Exploratory Preference Optimization: Harnessing Implicit Q*-Approximation for Sample-Efficient RLHF",
    ),
    "2406.01462": (
        "Song, Yuda",
        "The Importance of Online Data: Understanding Preference Fine-tuning via Coverage",
    ),
    "2406.09760": ("Chen, Changyu", "Bootstrapping Language Models with DPO Implicit Rewards"),
    "2406.16768": ("Ram\u00e9, Alexandre", "WARP: On the Benefits of Weight Averaged Rewarded Policies"),
    "2407.09072": ("Hu, Xiangkun", "New Desiderata for Direct Preference Optimization"),
    "2407.13709": ("Liu, Yixin", "Understanding Reference Policies in Direct Preference Optimization"),
    "2407.14622": ("Sessa, Pier Giuseppe", "BOND: Aligning LLMs with Best-of-N Distillation"),
    "2506.21495": ("Lanchantin, Jack", "Bridging Offline and Online Reinforcement Learning for LLMs"),
}
"""By arXiv id: the first author, and the title."""
_ID = re.compile(r"\d{4}\.\d{5}")


def ids_in(texts: Iterable[str]) -> list[str]:
    """The arXiv ids that texts name, each once, in the order of their numbers."""
    return sorted({result for text in texts for result in _ID.findall(text)})


def bibtex(ids: Iterable[str]) -> str:
    """An entry for each arXiv id; of one that is not known here its number alone."""
    return "\n".join(_entry(each) for each in ids)


def key(arxiv: str) -> str:
    """What cites an entry."""
    return f"arxiv{arxiv.replace('.', '')}"


def _entry(arxiv: str) -> str:
    author, title = _PAPERS.get(arxiv, ("", ""))
    fields = {
        **({"author": f"{author} and others", "title": f"{{{title}}}"} if title else {}),
        "year": f"20{arxiv[:2]}",
        "eprint": arxiv,
        "archivePrefix": "arXiv",
        "url": f"https://arxiv.org/abs/{arxiv}",
    }
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@misc{{{key(arxiv)},\n{lines}\n}}\n"
