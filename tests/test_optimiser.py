"""The optimiser's steps by hand: two steps of AdamW, rates, clipping, what is saved, and copies in lower precision."""

import pickle

import pytest
import torch

from goodhart.errors import GoodhartError
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation


def parameter(*values):
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float32))


def settings(**changes):
    return Optimisation(**{"lr": 0.1, "warmup": 0, "clip": 100.0, **changes})


def go(descent, *gradients, start=0):
    """Steps with these gradients of the first parameter; returns the norms."""
    norms = []
    for step, gradient in enumerate(gradients, start):
        descent.parameters[0].grad = torch.tensor(gradient)
        norms.append(descent.step(step, 0.5))
    return norms


def test_two_steps_of_adamw_by_hand():
    """Gradients 3 and -1 with moments of 0.5 and 0.75 and a decay of 0.2.

    First both moments are the gradient's, so the step is the rate. Then the mean is 0.25 / (1 - 0.25) = 1/3 and the
    square (0.75 * 2.25 + 0.25) / (1 - 0.5625) = 31/7; before each step the weight loses 0.1 * 0.2 of itself.
    """
    weight = parameter(2.0)
    descent = Descent([weight], settings(beta1=0.5, beta2=0.75, weight_decay=0.2), 10)
    assert go(descent, [3.0]) == [3.0]
    assert weight.item() == pytest.approx(2 * 0.98 - 0.1)
    assert go(descent, [-1.0], start=1) == [1.0]
    assert weight.item() == pytest.approx((2 * 0.98 - 0.1) * 0.98 - 0.1 / 3 / (31 / 7) ** 0.5)
    assert weight.grad is None, "gradients are gathered anew for the next step"


def test_the_rate_follows_the_schedule_and_fast_parameters_move_faster():
    slow, fast = parameter(0.0), parameter(0.0)
    descent = Descent([slow, fast], settings(warmup=2, decay="linear"), 6, [fast], 50.0)
    rates = []
    for step in range(6):
        slow.grad, fast.grad = torch.ones(1), torch.ones(1)
        before = slow.item(), fast.item()
        descent.step(step, 0.0)
        rates.append((before[0] - slow.item(), before[1] - fast.item()))
    # a gradient that is always the same moves a weight by the rate
    expected = [0.05, 0.1, 0.1, 0.075, 0.05, 0.025]
    assert [rate for rate, _ in rates] == pytest.approx(expected, rel=1e-4)
    assert [rate for _, rate in rates] == pytest.approx([50 * rate for rate in expected], rel=1e-4)


def test_all_parameters_may_be_fast():
    fast = parameter(0.0)
    go(Descent([fast], settings(), 1, [fast], 3.0), [1.0])
    assert fast.item() == pytest.approx(-0.3)
    no_faster = parameter(0.0)
    go(Descent([no_faster], settings(), 1, [no_faster]), [1.0])
    assert no_faster.item() == pytest.approx(-0.1)


def test_the_norm_is_that_before_clipping_and_gradients_are_scaled_to_the_clip():
    """(3, 4) has norm 5 and is clipped to (0.6, 0.8); its moments are told by the optimiser's state."""
    weight = parameter(0.0, 0.0)
    descent = Descent([weight], settings(clip=1.0), 1)
    assert go(descent, [3.0, 4.0]) == [5.0]
    mean = descent.optimiser.state[weight]["exp_avg"]
    assert mean.tolist() == pytest.approx([0.06, 0.08], rel=1e-4)


@pytest.mark.parametrize(
    ("gradient", "loss"), [(float("nan"), 0.5), (float("inf"), 0.5), (1.0, float("nan")), (1.0, float("-inf"))]
)
def test_what_is_not_finite_leaves_the_parameters_and_is_told_with_its_step(gradient, loss):
    weight = parameter(2.0)
    descent = Descent([weight], settings(weight_decay=0.5), 9)
    weight.grad = torch.tensor([gradient])
    with pytest.raises(GoodhartError, match="not finite at step 8 of 9"):
        descent.step(7, loss)
    assert weight.item() == 2.0


def test_a_saved_descent_goes_on_as_the_one_that_was_not_interrupted(tmp_path):
    whole, cut, resumed = parameter(1.0, -1.0), parameter(1.0, -1.0), parameter(5.0, 5.0)
    gradients = [[1.0, 2.0], [0.5, -1.0], [3.0, 0.1]]
    go(Descent([whole], settings(), 3), *gradients)
    first = Descent([cut], settings(), 3)
    go(first, *gradients[:2])
    first.save(tmp_path / "state.pt", 2)
    second = Descent([resumed], settings(), 3)
    assert second.load(tmp_path / "state.pt") == 2
    assert torch.equal(resumed, cut)
    go(second, gradients[2], start=2)
    assert torch.equal(resumed, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def lowered(*values):
    weight = parameter(*values)
    copy = torch.nn.Parameter(weight.detach().bfloat16())
    return weight, copy, Descent([weight], settings(lr=1e-3), 9, lowered=[copy])


def test_gradients_of_a_lowered_copy_are_added_in_the_precision_of_its_parameter():
    """1 + 2^-9 is no bfloat16, which has 8 bits."""
    weight, copy, _ = lowered(1.0)
    for slope in (1.0, 2**-9):
        (copy * slope).sum().backward()
        assert copy.grad is None
    assert weight.grad.dtype == torch.float32
    assert weight.grad.tolist() == [1 + 2**-9]


def test_an_update_below_a_copy_s_last_bit_is_kept_until_it_counts():
    weight, copy, descent = lowered(1.0)
    seen = []
    for step in range(6):
        copy.sum().backward()
        descent.step(step, 0.0)
        seen.append(copy.item())
    assert weight.item() == pytest.approx(1 - 6e-3, rel=1e-5)
    assert seen == [1.0, *[1 - 2**-8] * 4, 1 - 2**-7], "the last bit below 1 is 2^-8"


def test_a_copy_is_what_was_loaded(tmp_path):
    weight, copy, descent = lowered(1.0, 3.0)
    with torch.no_grad():
        weight.fill_(2.5)
    descent.save(tmp_path / "state.pt", 4)
    other, other_copy, again = lowered(0.0, 0.0)
    again.load(tmp_path / "state.pt")
    assert other.tolist() == other_copy.tolist() == [2.5, 2.5]
    assert copy.tolist() == [1.0, 3.0], "saving moves nothing"


def test_frozen_parameters_have_no_copies_and_each_other_has_its_own():
    frozen, free = parameter(1.0).requires_grad_(False), parameter(2.0)
    copies = [torch.nn.Parameter(p.detach().bfloat16(), requires_grad=p.requires_grad) for p in (frozen, free)]
    descent = Descent([frozen, free], settings(), 2, lowered=copies)
    assert [(own is free, copy is copies[1]) for own, copy in descent.copies] == [(True, True)]
    assert Descent([frozen, free], settings(), 2).copies == []


def test_a_state_that_would_run_code_is_not_loaded(tmp_path):
    class Code:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"parameters": [torch.zeros(1)], "optimiser": Code(), "step": 1}, tmp_path / "state.pt")
    with pytest.raises(pickle.UnpicklingError):
        Descent([parameter(0.0)], settings(), 1).load(tmp_path / "state.pt")
    assert not (tmp_path / "ran").exists()
