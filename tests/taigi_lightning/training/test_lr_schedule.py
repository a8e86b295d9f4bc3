"""A learning rate or a length changed on resume is used, at the step that the checkpoint had reached."""

import torch
from transformers import get_scheduler

from taigi_lightning.training.lr_schedule import adopt_rate, follow_course


def schedule(rate: float, steps: int = 10) -> torch.optim.lr_scheduler.LRScheduler:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))], lr=rate)
    made: torch.optim.lr_scheduler.LRScheduler = get_scheduler("linear", optimizer, 0, steps)
    return made


def test_the_configs_rate_wins_over_the_checkpoints() -> None:
    before = schedule(1e-3)
    for _ in range(5):
        before.optimizer.step()
        before.step()
    after = schedule(4e-3)
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    after.load_state_dict(before.state_dict())
    assert list(adopt_rate(after)) == [(1e-3, 4e-3)]
    assert after.optimizer.param_groups[0]["lr"] == 2e-3  # half of the way is behind it
    after.optimizer.step()
    after.step()
    assert abs(after.optimizer.param_groups[0]["lr"] - 1.6e-3) < 1e-12
    assert list(adopt_rate(after)) == []


def test_the_configs_course_wins_over_the_checkpoints() -> None:
    before = schedule(1e-3)
    for _ in range(10):
        before.optimizer.step()
        before.step()
    assert before.optimizer.param_groups[0]["lr"] == 0.0
    after = schedule(1e-3, steps=40)
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    after.load_state_dict(before.state_dict())
    assert list(follow_course(after)) == [(0.0, 7.5e-4)]
    assert after.optimizer.param_groups[0]["lr"] == 7.5e-4
    assert list(follow_course(after)) == []
