"""What a parsed config is refused for before anything is loaded."""

from typing import Any

import pytest
from jsonargparse import Namespace

from taigi_lightning.cli.run_checks import check_products
from taigi_lightning.errors import InputError


def config(matmul: str, quantization: str = "nf4", precision: Any = None) -> Namespace:
    model = Namespace(base="models/base", matmul=matmul, quantization=quantization)
    return Namespace(model=model, trainer=Namespace(accelerator="cpu", precision=precision))


@pytest.mark.parametrize(
    ("matmul", "quantization", "said"),
    [("fp8", "nf4", "this is a CPU"), ("fp8_backward", "none", "no weights are in 4")],
)
def test_fp8_is_refused_before_texts_are_read(matmul: str, quantization: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"model.matmul is {matmul}, but .*{said}"):
        check_products(config(matmul, quantization))


@pytest.mark.parametrize("precision", [32, "32", "bf16", 16])
def test_a_precisions_short_name_changes_nothing(precision: Any) -> None:
    with pytest.raises(InputError, match="this is a CPU"):
        check_products(config("int8", precision=precision))


def test_a_model_of_ones_own_and_16_bits_are_let_through() -> None:
    check_products(config("bf16"))
    own = config("bf16")
    del own.model["matmul"]
    check_products(own)
    check_products(
        config("fp8", precision="bf16-true")
    )  # refused for its precision, once the trainer is there
