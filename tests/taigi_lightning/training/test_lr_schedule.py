"""A learning rate or a length changed on resume is used, at the step that the checkpoint had reached."""

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR
from transformers import get_scheduler

from taigi_lightning.errors import InputError
from taigi_lightning.training.lr_schedule import configure_schedule, configured_rates, resume_rates


def linear(optimizer: torch.optim.Optimizer, steps: int = 10) -> Any:
    return get_scheduler("linear", optimizer, 0, steps)


def adam(*rates: float) -> torch.optim.AdamW:
    return torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.zeros(3))], "lr": rate} for rate in rates])


def stepped(schedule: Any, steps: int) -> Any:
    for _ in range(steps):
        schedule.optimizer.step()
        schedule.step()
    return schedule


def resumed(before: Any, after: Any) -> list[str]:
    """Restore `before` into `after` as Lightning does; what is said of it."""
    configured = configured_rates(after.optimizer)
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    after.load_state_dict(before.state_dict())
    return list(resume_rates(after.optimizer, [after], configured))


def rates(schedule: Any) -> list[float]:
    return [group["lr"] for group in schedule.optimizer.param_groups]


@pytest.mark.parametrize(("warmup", "steps"), [(0.05, 100), (0.041, 100), (5, 100), (0.05, 81)])
def test_a_share_of_the_steps_is_a_warm_up_too(warmup: float, steps: int) -> None:
    schedule = configure_schedule("linear", adam(1.0), warmup, steps)["scheduler"]
    assert rates(stepped(schedule, 4)) == [pytest.approx(0.8)]
    assert rates(stepped(schedule, 1)) == [1.0]


def test_a_warm_up_that_outlasts_the_run_is_said(caplog: pytest.LogCaptureFixture) -> None:
    for warmup, steps in ((9, 10), (0.5, 10), (5, float("inf")), (0, 10)):
        configure_schedule("constant_with_warmup", adam(1.0), warmup, steps)
    assert not caplog.messages
    for kind in ("linear", "cosine", "constant_with_warmup"):
        configure_schedule(kind, adam(1.0), 40, 10)  # type: ignore[arg-type]
        configure_schedule(kind, adam(1.0), 10, 10)  # type: ignore[arg-type]
    assert len(caplog.messages) == 6
    assert "warmup_steps is 40 and the run has 10 steps" in caplog.messages[0]
    assert "at 22 % of its highest" in caplog.messages[0] and "at 90 %" in caplog.messages[1]


def test_a_share_of_no_end_is_refused() -> None:
    with pytest.raises(InputError, match="a share of the run's steps"):
        configure_schedule("constant_with_warmup", adam(1.0), 0.1, float("inf"))


def test_the_configs_rate_wins_over_the_checkpoints() -> None:
    after = linear(adam(4e-3))
    said = resumed(stepped(linear(adam(1e-3)), 5), after)
    assert said == ["Learning rate: 0.001 in the checkpoint, 0.004 in the config; using 0.004."]
    assert rates(after) == [2e-3]  # half of the way is behind it
    assert rates(stepped(after, 1)) == pytest.approx([1.6e-3], abs=1e-12)


def test_the_configs_schedule_wins_over_the_checkpoints() -> None:
    before = stepped(linear(adam(1e-3)), 10)
    assert rates(before) == [0.0]
    after = linear(adam(1e-3), steps=40)
    assert len(resumed(before, after)) == 1
    assert rates(after) == [7.5e-4]


def test_each_parameter_group_keeps_its_own_rate() -> None:
    before, after = stepped(linear(adam(1e-4, 1.6e-3)), 5), linear(adam(1e-4, 1.6e-3))
    assert resumed(before, after) == []
    assert rates(after) == rates(before) == [5e-5, 8e-4]


def test_any_other_schedule_goes_on_with_its_rates_scaled() -> None:
    before = stepped(StepLR(adam(1e-3), 2, gamma=0.5), 3)
    after = StepLR(adam(4e-3), 2, gamma=0.5)
    assert len(resumed(before, after)) == 1
    assert rates(after) == [2e-3]
    assert rates(stepped(after, 1)) == [1e-3]
