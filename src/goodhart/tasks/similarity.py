"""The hidden measure: how similar a text is to the human line. No model ever sees it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sacrebleu.metrics.chrf import CHRF


def similarity(texts: Sequence[str], references: Sequence[str]) -> Float[np.ndarray, " text"]:
    """Sentence-level chrF in [0, 1] with beta = 1 (Popović 2015, W15-3049; computed by sacrebleu).

    Precision and recall of character 1- to 6-grams weigh the same, so that length alone buys nothing.
    """
    metric = CHRF(beta=1)
    scores = [metric.sentence_score(text, [reference]).score for text, reference in zip(texts, references, strict=True)]
    return np.array(scores) / 100
