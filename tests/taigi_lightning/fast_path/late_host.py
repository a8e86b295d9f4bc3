"""Host memory whose copies are as late as they may be."""

from torch import Tensor


class LateHost:
    """In the place of pinned memory: takes its copy as late as the real one may, so that reuse too early shows."""

    def __init__(self) -> None:
        self.leaving: list[tuple[object, Tensor]] = []
        self.hosts: dict[object, Tensor] = {}
        self.prefetched: set[object] = set()
        self.order: list[object] = []  # in which they were asked back
        self.most = 0  # bytes that were on their way out at a time

    def reserve(self, wanted: object, limit: float) -> bool:
        return True

    def put(self, key: object, tensor: Tensor) -> None:
        self.leaving.append((key, tensor))
        self.most = max(self.most, sum(leaving.nbytes for _, leaving in self.leaving))

    def settle(self, in_flight: int = 0) -> None:
        while len(self.leaving) > in_flight:
            key, tensor = self.leaving.pop(0)
            self.hosts[key] = tensor.clone()

    def prefetch(self, key: object) -> None:
        self.settle()
        if key not in self.prefetched:
            self.order.append(key)
        self.prefetched.add(key)

    def get(self, key: object) -> Tensor:
        self.settle()
        return self.hosts.pop(key).clone()
