"""An RMS norm is computed as one operation where that is what its module computes, and left alone where it is not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.bamba.modeling_bamba import BambaRMSNormGated
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.glm4.modeling_glm4 import Glm4RMSNorm
from transformers.models.olmoe.modeling_olmoe import OlmoeRMSNorm
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNorm

from taigi_lightning.fast_path.apply import apply_fast_path
from taigi_lightning.fast_path.rms_norms import fuse_norm
from taigi_lightning.kernels import elementwise
from tests.taigi_lightning.fast_path.small_decoders import gradients, worst
from tests.taigi_lightning.fast_path.small_general import LAYERS, small

WIDTH = 48


class Centred(nn.Module):
    """A norm by another formula."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(WIDTH)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class Detached(Centred):
    """The same values, and another gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps).detach()


class OtherEps(Centred):
    """What says another eps than it takes."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


CentredRMSNorm, DetachedRMSNorm, OtherRMSNorm = (
    type(f"{kind.__name__}RMSNorm", (kind,), {}) for kind in (Centred, Detached, OtherEps)
)


def frozen(module: Any, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        module.weight.add_(torch.randn(module.weight.shape) / 4)
    return module.to(dtype).requires_grad_(False)


def passed(module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a module gives, and the gradient of its input."""
    x = x.detach().requires_grad_()
    y = module(x)
    torch.manual_seed(1)
    return y.detach(), torch.autograd.grad(y, x, torch.randn(y.shape).to(y.dtype))[0]


KINDS: list[Any] = [
    lambda: Glm4RMSNorm(WIDTH, 1e-5), lambda: Gemma2RMSNorm(WIDTH), lambda: OlmoeRMSNorm(WIDTH),
    lambda: Qwen3NextRMSNorm(WIDTH), lambda: nn.RMSNorm(WIDTH, 1e-6),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_and_gradients_are_the_modules_own(kind: Any, dtype: torch.dtype) -> None:
    module, x = (
        frozen(kind(), dtype),
        torch.randn(2, 5, 3, WIDTH).to(dtype).transpose(1, 2),
    )  # as heads are turned
    wanted = passed(module, x)
    assert fuse_norm(module, elementwise)
    found = passed(module, x)
    assert found[0].stride() == x.stride()  # so attention finds its heads as they were
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        near = (one - other).float().norm() / other.float().norm()
        assert near < {torch.float32: 1e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[dtype]


LYING = [torch.randn(5, WIDTH, 3).mT, torch.randn(1, 7, WIDTH).expand(4, -1, -1), torch.randn(3, 99)[:, 9:57]]


@pytest.mark.parametrize("x", LYING)
def test_inputs_may_lie_anyhow(x: Tensor) -> None:
    module = frozen(Glm4RMSNorm(WIDTH))
    wanted = passed(module, x)
    assert fuse_norm(module, elementwise)
    for one, other in zip(passed(module, x), wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "module",
    [
        CentredRMSNorm(), DetachedRMSNorm(), OtherRMSNorm(), Centred(), nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH),
        nn.RMSNorm((2, WIDTH), 1e-6), nn.RMSNorm(WIDTH, 1e-6, elementwise_affine=False), BambaRMSNormGated(WIDTH, 16),
    ],
)  # fmt: skip
def test_what_computes_anything_else_is_left_alone(module: Any) -> None:
    own = module.requires_grad_(False).forward
    assert not fuse_norm(module, elementwise)
    assert module.forward == own


def test_a_weight_that_trains_is_left_alone_even_later() -> None:
    module, x = Glm4RMSNorm(WIDTH), torch.randn(4, WIDTH)
    assert not fuse_norm(module, elementwise)
    assert fuse_norm(module.requires_grad_(False), elementwise)
    module.weight.requires_grad_(True)
    module(x).sum().backward()
    assert module.weight.grad is not None


def test_its_input_alone_is_kept_and_its_result_may_be_changed_in_place() -> None:
    module, x = (
        frozen(Gemma2RMSNorm(WIDTH), torch.bfloat16),
        torch.randn(4, WIDTH).bfloat16().requires_grad_(),
    )
    assert fuse_norm(module, elementwise)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = module(x)
    assert kept == [x.data_ptr()]
    y.add_(1).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert module(x).dtype == torch.bfloat16  # its own pass


@pytest.mark.parametrize(
    ("kind", "norms"),
    [
        ("glm4", 4),
        ("gemma2", 4),
        ("qwen3_moe", 4),
        ("phi3", 2),
        ("falcon_h1", 2),
        ("zamba2", 1),
        ("bloom", 0),
    ],
)
def test_gradients_of_whole_models_stay_the_same(kind: str, norms: int) -> None:
    model = small(kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn(parameter.shape) / 4)
    torch.manual_seed(7)  # of the dropout that some have
    wanted = gradients(model)
    apply_fast_path(model, activation_budget=1.0)
    replaced = sum("forward" in vars(m) and type(m).__name__.endswith("RMSNorm") for m in model.modules())
    assert norms * LAYERS <= replaced <= (norms + 1) * LAYERS + 1  # and the last one
    torch.manual_seed(7)
    assert worst(gradients(model), wanted) < 1e-5
