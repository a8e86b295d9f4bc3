"""Transformers' own layers made to train fast, part by part, for architectures that are not written out here.

No list says what a module is: each part is compared with what we would compute in its place, and left alone if that
differs. Without gradients, and wherever something has changed since, transformers' and PEFT's own code runs.
"""

from types import ModuleType
from typing import Any, NoReturn

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.fallback import speed_up
from taigi_lightning.fast_path.gated_mlp import join_mlp
from taigi_lightning.fast_path.own_attention import Masks, fuse_attention
from taigi_lightning.fast_path.own_pass import own_decoder
from taigi_lightning.fast_path.rms_norms import fuse_norm
from taigi_lightning.fast_path.rotations import fuse_rotation
from taigi_lightning.fast_path.shared_inputs import join_siblings
from taigi_lightning.kernels.host_memory import held_in_place, let_move
from taigi_lightning.planning.four_bit_options import check_option, own_code
from taigi_lightning.planning.placement import WeightsOnHost


def speed_up_layers(base: Any, ops: ModuleType, fused: bool) -> None:
    """Let projections, norms, gated MLPs, rotations and attention train as one operation each, in place.

    Args:
        base: the transformers causal language model, its LoRA attached.
        ops: `elementwise`, or `elementwise_triton`.
        fused: read and write weights in Triton as well.
    """
    # What is inside comes first: a gated MLP remembers its projections as they are then.
    others = [
        module
        for module in reversed([*base.modules()])
        if not speed_up(module, ops, fused)
        and not fuse_norm(module, ops)
        and not join_mlp(module, ops, fused)
    ]
    masks = Masks()
    own_decoder(base).register_forward_pre_hook(masks.forget)
    others.reverse()
    for module in others:
        fuse_rotation(module, ops)
        fuse_attention(module, masks)
    join_siblings(base, others, ops, fused)


def no_copy(_: Any) -> NoReturn:
    """What `copy.deepcopy` calls: functions are not copied, so that a copy would compute with the original's weights.

    Raises:
        InputError: always.
    """
    raise InputError(
        "A model whose layers were made to train fast cannot be copied: the copy would compute with the original's "
        "weights. Copy it before apply_fast_path, or save its adapter and load that."
    )


def bring_back(base: Any, weights_on_host: WeightsOnHost, reason: str) -> None:
    """Where layers are not written out nothing brings weights from the host: those that wait there return for good.

    Args:
        base: the transformers causal language model.
        weights_on_host: as for `apply_fast_path`.
        reason: why the layers are not written out.

    Raises:
        InputError: weights were asked to wait there.
    """
    check_option("weights_on_host", weights_on_host, fault=own_code(reason))
    for module in base.modules():
        if held_in_place(module):
            let_move(module)
            module.weight.data = module.weight.data.to(module.weight.quant_state.absmax.device)
