"""What a training config will need of card and host, and how it could need less."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from taigi_lightning.kernels.matmul import format_of, forward_in_8_bits
from taigi_lightning.planning import activation_plan, general_path, memory, placement
from taigi_lightning.planning.earlier_stages import frozen_part
from taigi_lightning.planning.host_budget import PROCESS, WORKER, HostBudget
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.mix_in_words import mix_in_words
from taigi_lightning.planning.needs import Decisions, Needs, Part, taken
from taigi_lightning.planning.placement import Placement
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import ASSUMED, Machine, Pace, step_seconds
from taigi_lightning.planning.strong_part import strong_part
from taigi_lightning.planning.trained_sizes import trained_sizes, with_new_tokens

DEQUANTISED = "weights, dequantised"
IN_TRANSIT = "weights, arriving"
WAITING = "weights"  # those that wait on the host
ACTIVATIONS = "activations"  # those that move to the host
NEW_TOKENS = "rows of new tokens"
MLP = ("gate_proj", "up_proj", "gate_up_proj", "down_proj")
HEAD = "output head"  # where it waits on the host, and with it the input embedding if they are one


def needs(
    settings: Settings,
    shape: Shape,
    card: int | None = None,
    general: str | None = None,
    machine: Machine = ASSUMED,
    host: float = math.inf,
) -> Needs:
    """What training takes on a CUDA card at its peak, and of the host, by all ranks of a machine.

    Args:
        card: its bytes, which an activation budget of "auto" fills; None takes the least.
        general: why the base's layers take the general path; None: they take the fast one.
        machine: how fast the host link and the card are.
        host: bytes available on the host; without a limit it is taken to have what moves there.
    """
    shape = with_new_tokens(settings, shape)
    if settings.from_scratch:
        general = "every weight trains"
    if general is not None:
        return _general_needs(settings, shape, card, general)
    choice = placed(settings, shape, card, machine, host)
    return replace(
        _fast_needs(settings, shape, machine, choice), loading=loading_bytes(settings, shape, card)
    )


def placed(settings: Settings, shape: Shape, card: int | None, machine: Machine, host: float) -> Placement:
    """What the first training step will decide; arguments as for `needs`."""
    tokens, rank, element_size = settings.tokens, settings.rank or 0, settings.element_size
    projections, rest = memory.weight_bytes(shape, settings.quantization, element_size)
    sizes = trained_sizes(settings, shape)
    state = memory.optimizer_bytes(settings.optimizer, sizes)
    frozen = frozen_part(settings.ranks_beside, shape, element_size)
    held = projections + rest + frozen.bytes + 2 * 4 * sum(sizes) + state + memory.CONTEXT
    held += memory.token_place_bytes(shape, settings.new_tokens)
    held += strong_part(settings.matmul, shape, element_size).bytes
    by_itself = card is None and settings.weights_on_host == "auto"
    return placement.place(
        shape,
        tokens,
        rank,
        weights_on_host="none" if by_itself else settings.weights_on_host,
        machine=machine,
        budget="auto" if settings.activation_budget == "auto" else float(settings.activation_budget),
        headroom=0.0
        if card is None
        else activation_plan.headroom_left(card, held, shape, tokens, element_size),
        host=host_budget(settings, host, machine),
        embedding=_movable_embedding(settings, shape),
        head=0 if by_itself else _movable_head(settings, shape),
        element_size=element_size,
        packed=settings.quantization == "nf4",
        weight_size=activation_plan.held_size(settings.matmul, element_size),
    )


def host_budget(settings: Settings, host: float, machine: Machine) -> HostBudget:
    """What a run may take of a host with so many bytes available before it starts."""
    own = settings.devices * (PROCESS + settings.workers * WORKER)
    return HostBudget(host - own, machine.lockable, settings.devices)


def loading_bytes(settings: Settings, shape: Shape, card: int | None) -> int:
    """Bytes of the host that 4-bit weights take while they load, on the fast path; see `placement.loads_to_host`.

    They come back to a card that has headroom for them, so where the host is too small a card that holds them counts.
    """
    if settings.quantization != "nf4" or settings.from_scratch or card is None:
        return 0
    adapter = memory.adapter_sizes(shape, settings.rank or 0, settings.targets)
    held = sum(memory.weight_bytes(shape, "nf4")) + 4 * sum(adapter)
    waits = placement.loads_to_host(settings.weights_on_host, held, card - memory.CONTEXT)
    return shape.layers * memory.packed_layer_bytes(shape) if waits else 0


def _movable_embedding(settings: Settings, shape: Shape) -> int:
    """Bytes of an embedding that may wait on the host: a table of its own, no row of which trains."""
    return 0 if shape.tied or settings.new_tokens else shape.vocabulary * shape.hidden * settings.element_size


def _movable_head(settings: Settings, shape: Shape) -> int:
    if settings.new_tokens:
        return 0
    return placement.head_bytes(shape, settings.weights_on_host, settings.element_size)


def _fast_needs(settings: Settings, shape: Shape, machine: Machine, choice: Placement) -> Needs:
    tokens, rank, element_size = settings.tokens, settings.rank or 0, settings.element_size
    projections, rest = memory.weight_bytes(shape, settings.quantization, element_size)
    sizes = trained_sizes(settings, shape)
    frozen = frozen_part(settings.ranks_beside, shape, element_size)
    decision, waiting = choice.decision, choice.on_host * memory.packed_layer_bytes(shape)
    kept, host = activation_plan.kept_bytes(decision.savings, shape, tokens, rank, element_size)
    working = activation_plan.working_bytes(shape, tokens, element_size)
    at_loss = (activation_plan.streamed_loss_bytes if choice.head_on_host else activation_plan.loss_bytes)(
        shape, tokens, element_size
    )
    transient = max(at_loss, working + activation_plan.passing_bytes(shape, tokens, element_size))
    size = activation_plan.held_size(settings.matmul, element_size)
    a_layer = activation_plan.unpacked_bytes(shape, rank, element_size, settings.quantization == "nf4", size)
    note = mix_in_words(decision.savings)
    moved = _movable_embedding(settings, shape) if decision.embedding_on_host else 0
    head = shape.vocabulary * shape.hidden * element_size if choice.head_on_host else 0
    bits = "16 bits" if format_of(settings.matmul) is None else "16 and 8 bits"
    if forward_in_8_bits(settings.matmul):
        bits = "8 bits in two layouts"
    dequantised = f"{bits} instead, of {decision.unpacked} of {shape.layers} layers"
    device = [
        *_weights(settings, projections - waiting, rest - moved - head),
        frozen,
        Part(
            IN_TRANSIT, placement.slot_bytes(shape, choice.on_host), "two layers, on their way from the host"
        ),
        Part(DEQUANTISED, decision.unpacked * a_layer, dequantised),
        strong_part(settings.matmul, shape, element_size),
        *_trained(settings, shape),
        Part("activations kept", kept, note),
        *_transients(settings, sizes, kept, transient),
    ]
    everything = Pace(shape, tokens, machine).seconds(0.0, 0.0, 0)
    found = Decisions(
        path="fast",
        path_reason=None,
        layers=shape.layers,
        layers_kept=decision.keeping,
        layers_dequantised=decision.unpacked,
        embedding_on_host=decision.embedding_on_host,
        head_on_host=choice.head_on_host,
        layers_on_host=choice.on_host,
        slow_down=choice.seconds / step_seconds(decision.savings, 0, shape, tokens, machine, element_size),
        kept_slow_down=choice.seconds / everything,
        layers_moving=sum(bool(saving.host) for saving in decision.savings),
    )
    on_host = [
        # The ranks of a machine hold one copy of these together; of the rest each has its own.
        Part(WAITING, waiting, f"4 bits, of {choice.on_host} of {shape.layers} layers"),
        Part(ACTIVATIONS, settings.devices * host),
        Part("input embedding", settings.devices * moved),
        Part(HEAD, settings.devices * head),
    ]
    return Needs(found, taken(device), taken(on_host), choice.lacking)


def _general_needs(settings: Settings, shape: Shape, card: int | None, reason: str) -> Needs:
    """Checkpointed layer by layer, but for as many as the budget or, with "auto", the card lets keep everything."""
    tokens, rank, batch = settings.tokens, settings.rank or 0, (settings.batch_size, settings.max_length)
    element_size = settings.element_size
    # Weights that train are in 32 bits, and autocast makes 16-bit ones of the projections beside them.
    projections, rest = memory.weight_bytes(
        shape, *(("none", 4) if settings.from_scratch else (settings.quantization, element_size))
    )
    copies = projections // 2 if settings.from_scratch else 0
    held = [
        *_weights(settings, projections, rest),
        frozen_part(settings.ranks_beside, shape, element_size),
        Part("weights, 16-bit copies", copies, "by autocast, of the projections"),
        *_trained(settings, shape),
        Part("attention mask", general_path.mask_bytes(*batch), "which transformers makes of documents"),
    ]
    inputs = shape.layers * general_path.input_bytes(shape, tokens, element_size)
    mlp = [name for name in (linear.name for linear in shape.linears) if name in MLP]
    joined = settings.quantization == "nf4" and rank > 0 and set(mlp) <= set(settings.targets)
    masked = general_path.takes_mask(shape, settings.precision)
    saved = general_path.saved_bytes(shape, *batch, rank, element_size, joined, masked)
    more = saved - general_path.input_bytes(shape, tokens, element_size)
    at_loss = activation_plan.loss_bytes(shape, tokens, element_size)
    in_backward = general_path.layer_peak_bytes(shape, *batch, rank, saved, element_size)
    static = sum(part.bytes for part in held) + memory.CONTEXT + inputs
    measured = general_path.Measured(
        *batch, (more,) * shape.layers, more, static + at_loss, static + in_backward
    )
    kept = _layers_kept(settings, measured, card)
    note = f"all of {kept} of {shape.layers} layers; of the rest their input, and they are computed again"
    if kept == shape.layers:
        inputs, more, note = 0, saved, f"all of {kept} layers"
    activations = inputs + kept * more
    # One layer's own share is there already where the last one keeps everything.
    transient = max(at_loss, in_backward - (more if kept else 0))
    device = [
        *held,
        Part("activations kept", activations, note),
        *_transients(settings, trained_sizes(settings, shape), activations, transient),
    ]
    return Needs(Decisions("general", reason, shape.layers, layers_kept=kept), taken(device))


def _layers_kept(settings: Settings, measured: general_path.Measured, card: int | None) -> int:
    """What a run decides after its first micro-batch; without a card, the least."""
    if settings.activation_budget != "auto":
        whole = sum(measured.layers)
        return general_path.layers_within(measured.layers, float(settings.activation_budget) * whole)
    usable = 0.0 if card is None else card * (1 - margin("general"))
    return general_path.layers_kept(measured, measured.rows * measured.columns, usable)


def _weights(settings: Settings, projections: int, rest: int) -> list[Part]:
    bits = 32 if settings.from_scratch else 8 * settings.element_size
    kind = f"{bits} bits" if settings.from_scratch else settings.quantization
    return [
        Part("weights, projections", projections, kind),
        Part("weights, the rest", rest, f"{bits} bits: embeddings, norms"),
    ]


def _trained(settings: Settings, shape: Shape) -> list[Part]:
    """What is trained, all of it in 32 bits, with its gradients and the optimizer's state."""
    sizes, rows = trained_sizes(settings, shape), memory.token_row_sizes(shape, settings.new_tokens)
    adapter = 0 if settings.from_scratch else sum(sizes) - sum(rows)
    state = memory.optimizer_bytes(settings.optimizer, sizes)
    places = memory.token_place_bytes(shape, settings.new_tokens)
    return [
        Part("adapter", 4 * adapter, f"{adapter:,} parameters, 32 bits"),
        Part(
            NEW_TOKENS, 4 * sum(rows) + places, f"{settings.new_tokens:,}: {sum(rows):,} parameters, 32 bits"
        ),
        Part("gradients", 4 * sum(sizes)),
        Part("optimizer state", state, settings.optimizer.rpartition(".")[2]),
    ]


def _transients(settings: Settings, sizes: list[int], kept: int, transient: int) -> list[Part]:
    in_step = max(0, memory.step_bytes(settings.optimizer, sizes) - kept - transient)
    return [
        Part("loss or one layer", transient, "the larger of the two"),
        Part("optimizer step", in_step),
        cuda_part(settings),
    ]


def cuda_part(settings: Settings) -> Part:
    """What CUDA takes for itself."""
    return Part("CUDA itself", 0 if settings.accelerator == "cpu" else memory.CONTEXT, "about")


def margin(path: Literal["fast", "general"]) -> float:
    """The share of a card to leave free for fragments and small tensors."""
    return (
        activation_plan.system_margin()
        if path == "fast"
        else max(general_path.MARGIN, activation_plan.system_margin())
    )
