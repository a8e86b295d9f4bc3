"""Whether modules whose work is done elsewhere are still what they were when they were read.

What stands in for a module calls neither it nor what is in it: a hook on it, a forward pass of its own, another module
in its place, a weight that trains by now would go unheard. All of it is asked before each pass, so it has to be cheap:
about half a millisecond for forty layers of seven adapted projections.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from taigi_lightning.errors import InputError

CAPTURING = "transformers.utils.output_capturing"
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
EVERYWHERE = [getattr(torch_module, f"_global{name}") for name in HOOKS]  # of all modules of the process
# Neither changes what is computed without dropout, whose modules are asked one by one.
ASIDE = ("training", "gradient_checkpointing")


class WatchedModules:
    """What some modules are made of, as far as their pass depends on it.

    Args:
        name: of the outermost one, in messages.
        module: that one, with all that is in it.
        called: modules in it that are called as ever, hooks and all: they are not watched.
        inside: only what is in it is stood in for: its own hooks are called, its own forward pass is ours.
    """

    def __init__(
        self, name: str, module: nn.Module, called: Collection[nn.Module] = (), *, inside: bool = False
    ) -> None:
        self._modules: list[tuple[str, Any]] = []
        self._links: list[tuple[dict[str, Any], str, Any]] = []
        self._read(name, module, called)
        own = [module for _, module in self._modules]
        uncalled = set(own[1:] if inside else own)
        self._uncalled = [(name, module) for name, module in self._modules if module in uncalled]
        self._before = {name: len(hooks_of(module)) for name, module in self._uncalled}
        self._read_hooks()
        self._forwards = [(module, vars(module).get("forward")) for module in uncalled]
        self._classes = [(kind, kind.forward) for kind in {type(module) for module in uncalled}]
        self._attributes = [
            (module, name, value) for module in own if _plain(module) for name, value in _public(module)
        ]
        self._frozen = [
            (module._parameters, name, None if value is None else value.requires_grad)
            for module in own
            for name, value in module._parameters.items()
            if value is None or not value.requires_grad
        ]
        pairs = [(module, module._parameters.get("bias")) for module in own]
        self._biases = [(module, bias, _version(bias)) for module, bias in pairs if bias is not None]
        self._dropouts = [module for module in own if isinstance(module, nn.Dropout) and module.p]

    def _read(self, name: str, module: nn.Module, called: Collection[nn.Module]) -> None:
        self._modules.append((name, module))
        for table, key, child in _used(module):
            if child not in called:
                self._links.append((table, key, child))
                self._read(f"{name}.{key}", child, called)

    def _read_hooks(self) -> None:
        tables = [getattr(module, kind) for _, module in self._uncalled for kind in HOOKS]
        self._silent = [table for table in tables if not table]
        self._hooked = [(table, len(table)) for table in tables if table]

    def change(self, training: bool | None = None) -> str | None:
        """What has changed, in words for a sentence; None if nothing has.

        Args:
            training: whether every dropout that is not 0 is to be at work; None: it is not asked.
        """
        return (
            self._other_hooks()
            or self._other_modules()
            or self._other_attribute()
            or self._other_parameter()
            or self._other_dropout(training)
        )

    def _other_hooks(self) -> str | None:
        if any(EVERYWHERE):
            return "every module of the process has a hook"
        if any(self._silent) or any(len(table) != count for table, count in self._hooked):
            for name, module in self._uncalled:
                if len(hooks_of(module)) != self._before[name]:
                    return f"the hooks of {name} are others"
            self._read_hooks()
        return None

    def _other_modules(self) -> str | None:
        for table, key, child in self._links:
            if table.get(key) is not child:
                return f"{self._name(child)} was replaced"
        for module, forward in self._forwards:
            if module.__dict__.get("forward") is not forward:
                return f"{self._name(module)} has a forward of its own"
        for kind, function in self._classes:
            if kind.forward is not function:
                return f"{kind.__name__}.forward was replaced"
        return None

    def _other_attribute(self) -> str | None:
        for module, name, value in self._attributes:
            if module.__dict__.get(name) is not value:
                return f"{self._name(module)}.{name} was changed"
        return None

    def _other_parameter(self) -> str | None:
        for table, name, trains in self._frozen:
            value = table.get(name)
            if (None if value is None else value.requires_grad) is not trains:
                found = next(found for found, module in self._modules if module._parameters is table)
                return f"{found}.{name} {'trains' if value is not None and value.requires_grad else 'was replaced'}"
        for module, bias, version in self._biases:
            if module.bias is not bias or _version(bias) != version:
                return f"{self._name(module)}.bias was changed"
        return None

    def _other_dropout(self, training: bool | None) -> str | None:
        for dropout in self._dropouts if training is not None else ():
            if dropout.training is not training:
                return (
                    f"{self._name(dropout)} is in {'training' if dropout.training else 'eval'} mode by itself"
                )
        return None

    def _name(self, wanted: nn.Module) -> str:
        return next(name for name, module in self._modules if module is wanted)


def _used(module: Any) -> Iterator[tuple[dict[str, Any], str, nn.Module]]:
    """The children that a module's pass goes through; of an adapted projection those of its active adapters alone."""
    adapters = list(module.active_adapters) if hasattr(module, "lora_A") else None
    for key, child in module._modules.items():
        if adapters is None or key == "base_layer":
            if child is not None:
                yield module._modules, key, child
        elif isinstance(child, nn.ModuleDict):
            yield from ((child._modules, name, child[name]) for name in adapters if name in child)


def _plain(module: Any) -> bool:
    """Whether a module's attributes say what it computes: adapted projections are asked in their own way."""
    return not isinstance(module, nn.Linear) and not hasattr(module, "lora_A")


def _public(module: nn.Module) -> Iterator[tuple[str, Any]]:
    own = vars(module).items()
    return ((name, value) for name, value in own if name[0] != "_" and name not in (*ASIDE, "forward"))


def hooks_of(module: nn.Module) -> list[Any]:
    """The hooks on a module, but for those that transformers leaves on layers to hand out hidden states when asked."""
    every = [hook for kind in HOOKS for hook in getattr(module, kind).values()]
    return [hook for hook in every if getattr(hook, "__module__", None) != CAPTURING]


def heard(modules: Mapping[str, nn.Module]) -> str | None:
    """The name of the first of some modules that has a hook or a forward pass of a user's; None if none has.

    Ours do not count, such as the one that adds a frozen update: what stands in for a Linear reads that.
    """
    for name, module in modules.items():
        forward = vars(module).get("forward")
        # Not its __module__: a wrapper has that of what it wraps.
        where = getattr(forward, "__globals__", {}).get("__name__", "")
        others = (hook for hook in hooks_of(module) if not _is_ours(getattr(hook, "__module__", None)))
        if (forward is not None and not _is_ours(where)) or any(others):
            return name
    return None


def _is_ours(module: str | None) -> bool:
    return (module or "").startswith("taigi_lightning.")


def _version(tensor: Tensor) -> int:
    """How often it was written to, which is not counted of what was made in inference mode."""
    return -1 if tensor.is_inference() else tensor._version


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each was written to, for `expect_versions` in the backward pass."""
    return [_version(tensor) for tensor in tensors]


def expect_versions(tensors: Iterable[Tensor], before: list[int]) -> None:
    """Refuse a backward pass over other weights than the forward pass had, as autograd does with what it saves.

    Raises:
        InputError: one of the tensors was written to since.
    """
    if versions(tensors) != before:
        raise InputError(
            "LoRA's matrices were written to between a forward pass and its backward pass, whose gradients would be of "
            "other weights. Let optimizers and whatever else writes to them wait for the backward pass."
        )
