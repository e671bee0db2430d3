"""Which kernels multiply float32 matrices: PyTorch's own choice, or oneDNN where it is faster and as accurate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from goodhart.compute.choice import Candidate, Choice, choose, median_seconds, one_thread

DEFAULT, ONEDNN = "default", "onednn"
FACTOR = 1.1
"""oneDNN is chosen only if it is this many times as fast: less is lost in the noise."""
TOLERANCE = 1e-5
"""Of the largest error of a product, relative to its largest entry in float64; float32 gives less than 1e-6."""
ROWS = (64, 2500)
"""Rows of a decoding step, and of a training step."""
_PRODUCTS = 1.5e8
"""At most this many multiplications for one product: an output layer sees fewer rows than the layers before it."""
_WEIGHTS = 8_000_000
"""At most this many entries of a weight matrix; a larger one is timed on some of its rows."""
_SHAPES, _REPEATS, _BUDGET = 3, 5, 0.8

Shape = tuple[int, int]
"""(outputs, inputs) of a layer."""
Product = Callable[[Tensor, Tensor], Tensor]


def use(kernels: str) -> None:
    """From here on this process multiplies float32 matrices on the CPU with these kernels."""
    if torch.backends.mkldnn.is_available():
        # The setting allows rounding to bf16. oneDNN does so only on processors with instructions for it; on the
        # others it runs its float32 kernels. Which of both it does is measured, never assumed.
        _setting().fp32_precision = "bf16" if kernels == ONEDNN else "none"


def in_use() -> str:
    """The kernels of this process."""
    if torch.cuda.is_available() or not torch.backends.mkldnn.is_available():
        return DEFAULT
    return ONEDNN if _setting().fp32_precision == "bf16" else DEFAULT


def _setting() -> Any:
    return cast("Any", torch.backends.mkldnn).matmul


@contextmanager
def using(kernels: str) -> Generator[None]:
    """Within, this process uses these kernels."""
    before = in_use()
    use(kernels)
    try:
        yield
    finally:
        use(before)


def _by_onednn(a: Tensor, b: Tensor) -> Tensor:
    with using(ONEDNN):
        return a @ b


def products() -> dict[str, Product]:
    """The candidates on this machine; on a GPU there is one, float32 without TF32."""
    only: dict[str, Product] = {DEFAULT: torch.matmul}
    if torch.cuda.is_available() or not torch.backends.mkldnn.is_available():
        return only
    return {**only, ONEDNN: _by_onednn}


def layer_shapes(model: Any) -> Counter[Shape]:
    """The shapes of a model's weight matrices that cost most, and how many there are of each."""
    result = Counter((p.shape[0], p.shape[1]) for p in model.parameters() if p.dim() == 2)
    costly = sorted(result, key=lambda shape: -result[shape] * shape[0] * shape[1])[:_SHAPES]
    return Counter({shape: result[shape] for shape in costly})


def measure(shapes: Mapping[Shape, int], candidates: Mapping[str, Product]) -> Choice:
    """Time the products of a training step (forward, both gradients) and of a decoding step, about a second in all.

    A candidate whose error at any of them is not below `TOLERANCE` is refused. Seconds are those of all layers.
    """
    seconds, errors = dict.fromkeys(candidates, 0.0), dict.fromkeys(candidates, 0.0)
    if len(candidates) > 1:
        with one_thread(), torch.no_grad():
            for shape, number in shapes.items():
                for rows in ROWS:
                    pairs = _operands(shape, rows)
                    share = _BUDGET / (len(shapes) * len(ROWS))
                    result = median_seconds({n: _run(p, pairs) for n, p in candidates.items()}, _REPEATS, share)
                    for name, product in candidates.items():
                        seconds[name] += number * result[name]
                        errors[name] = max(errors[name], *(_error(product, a, b) for a, b in pairs))
    return choose([_candidate(name, seconds[name], errors[name]) for name in candidates], FACTOR)


def _candidate(name: str, seconds: float, error: float) -> Candidate:
    refused = "" if error < TOLERANCE else f"its largest relative error is {error:.1e}, not below {TOLERANCE:g}"
    return Candidate(name, seconds, error, "" if name == DEFAULT else refused)


def _operands(shape: Shape, rows: int) -> list[tuple[Float[Tensor, "m k"], Float[Tensor, "k n"]]]:
    """The factors of a layer's products: forward, and with many rows those of both gradients."""
    outputs, inputs = min(shape[0], _WEIGHTS // shape[1]), shape[1]
    rows = max(min(rows, int(_PRODUCTS / (outputs * inputs))), min(ROWS))
    draw = torch.Generator().manual_seed(0)
    x, w, g = (torch.randn(size, generator=draw) for size in ((rows, inputs), (outputs, inputs), (rows, outputs)))
    forward = (x, w.T)
    return [forward] if rows == min(ROWS) else [forward, (g, w), (g.T, x)]


def _run(product: Product, pairs: Sequence[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    def run() -> None:
        for a, b in pairs:
            product(a, b)

    return run


def _error(product: Product, a: Tensor, b: Tensor) -> float:
    exact = a.double() @ b.double()
    return float((product(a, b).double() - exact).abs().max() / exact.abs().max())
