"""An output head, tied to the embedding or not, that waits on the host: the same numbers, and back again."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from taigi_lightning.fast_path import vocabulary
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, device_of
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.fast_path.vocabulary import parts_of
from taigi_lightning.kernels.host_memory import held_in_place
from tests.taigi_lightning.fast_path.small_decoders import TOKENS, gradients, llama, with_lora
from tests.taigi_lightning.fast_path.test_weight_stream import Queue


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_and_the_models_own_pass_are_as_with_the_head_in_place(tied: bool) -> None:
    torch.manual_seed(0)
    model = apply_fast_path(with_lora(llama(tie_word_embeddings=tied)))
    base, positions = causal_lm(model), torch.arange(12).expand(2, -1)
    wanted, logits = gradients(model), model(input_ids=TOKENS, position_ids=positions).logits
    tables = base.fast_decoder.tables
    assert tables.movable_head() == base.lm_head.weight.nbytes
    tables.head_to_host()
    assert output_head(model).on_host
    assert tables.movable_head() == 0
    assert held_in_place(base.get_input_embeddings()) == tied
    found = gradients(model)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model(input_ids=TOKENS, position_ids=positions).logits, logits)
    assert device_of(model) == torch.device("cpu")
    base.fast_decoder.release()
    assert not held_in_place(base.lm_head)
    assert not held_in_place(base.get_input_embeddings())
    assert "forward" not in base.lm_head.__dict__
    assert torch.equal(model(input_ids=TOKENS, position_ids=positions).logits, logits)


def test_a_head_that_trains_stays() -> None:
    model = apply_fast_path(with_lora(llama()))
    tables = causal_lm(model).fast_decoder.tables
    tables.head.requires_grad_()
    assert tables.movable_head() == 0


class Dated:
    """A part's place on the device, which knows when it was last written and read."""

    def __init__(self, copies: Queue, main: Queue) -> None:
        self.copies, self.main = copies, main
        self.written: dict[str, int] = {}
        self.read: dict[str, int] = {}
        self.holds = -1

    def __getitem__(self, part: slice) -> "Dated":
        return self

    def copy_(self, source: "Part", non_blocking: bool) -> None:
        self.written = self.copies.work()
        assert all(self.written.get(name, 0) >= when for name, when in self.read.items()), "still being read"
        self.holds = source.start

    def use(self) -> int:
        self.read = self.main.work()
        assert self.read.get("copies", 0) >= self.written["copies"], "not there yet"
        return self.holds


class Part:
    def __init__(self, start: int, rows: int) -> None:
        self.start, self.rows = start, rows

    def __len__(self) -> int:
        return self.rows


class Weight:
    """A weight elsewhere."""

    device, dtype, shape = torch.device("cpu"), torch.float32, (23, 4)

    def __len__(self) -> int:
        return 23

    def __getitem__(self, part: slice) -> Part:
        return Part(part.start, min(part.stop, 23) - part.start)


def test_no_part_overtakes_what_reads_its_place_nor_is_read_before_it_is_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies, main = Queue("copies"), Queue("main")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copies)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(vocabulary.torch, "empty", lambda *_, **__: Dated(copies, main))
    weight: Any = Weight()
    assert [place.use() for _, place in parts_of(weight, torch.device("cuda", 0), 5)] == [0, 5, 10, 15, 20]
