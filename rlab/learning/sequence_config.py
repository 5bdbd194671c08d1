"""Settings of agents whose policy may have memory and which learn from windows of replay."""

from dataclasses import dataclass

from rlab.learning.common_config import MemoryConfig, Unread
from rlab.networks.spaces import Space
from rlab.ranges import check_counts, check_not_negative


@dataclass(frozen=True, kw_only=True)
class SequenceConfig(MemoryConfig):
    """What a policy remembers, and the windows of rows in time order that it learns from.

    A class that also inherits other settings names this one last, as with `MemoryConfig`.
    """

    sequence_length: int = 16  # with memory: rows of a window that are learned from; Kapturowski et al. 2019 have 80
    burn_in: int = 8  # with memory: rows before these that only warm the state up; the paper has 40
    stored_state: bool = True  # with memory: windows begin with the state that was acted with, not with an empty one

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "sequence_length")
        check_not_negative(self, "burn_in")

    @property
    def window_rows(self) -> int:
        """Rows of a window, burn-in included."""
        return self.burn_in + self.sequence_length

    def unread(self, action_space: Space) -> Unread:
        """Also what belongs to windows where no memory is in use."""
        found = super().unread(action_space)
        if self.memory == "none" and self.network is None:  # a network of one's own may have memory
            found |= dict.fromkeys(("sequence_length", "burn_in", "stored_state"), "memory is none")
        return found
