"""The settings of fine-tuning, apart from what carries them out: the command line reads them without torch."""

import re
from dataclasses import dataclass, field

from rlab.errors import UsageError, unknown
from rlab.ranges import check_counts, check_not_negative, check_positive

STRATEGIES = ("full", "head", "last-2", "gradual", "discriminative", "lora")  # any last-K
SHOWN = tuple("last-K" if name == "last-2" else name for name in STRATEGIES)

# Settings that one strategy alone reads.
OF_ONE_STRATEGY = {
    "layer_decay": "discriminative",
    "unfreeze_every": "gradual",
    "lora_rank": "lora",
    "lora_alpha": "lora",
}


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings of fine-tuning. Steps are env steps of one member, summed over its envs.

    Raises:
        UsageError: an unknown strategy or a number out of range.
    """

    strategy: str = field(default="full", metadata={"choices": SHOWN})  # which layers learn, when and how fast
    layer_decay: float = 1 / 2.6  # discriminative: factor per layer going down; Howard and Ruder 2018, section 3.2
    unfreeze_every: int = 5_000  # gradual: env steps between a layer and the one below; there an epoch, section 3.3
    lora_rank: int = 4  # lora: Hu et al. 2021, table 11 (GPT-2)
    lora_alpha: float = 32.0  # lora: changes are scaled by alpha / rank; table 11
    # env steps in which the critic learns alone; None: a fifth of the budget, 4 000 at most, where an agent's critic is
    # fresh, else 0
    critic_warmup: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES and self.last is None:
            raise unknown("fine-tuning strategy", self.strategy, STRATEGIES)
        if self.last == 0:
            raise UsageError("strategy last-0 would train nothing; last-1, the head alone, is the least.")
        if not 0.0 < self.layer_decay <= 1.0:
            raise UsageError(f"layer_decay {self.layer_decay} must be in (0, 1]; 1 gives every layer the same rate.")
        check_counts(self, "unfreeze_every", "lora_rank")
        check_not_negative(self, "critic_warmup")
        check_positive(self, "lora_alpha")

    @property
    def last(self) -> int | None:
        """K of `last-K`, 1 for `head`; None for other strategies."""
        found = re.fullmatch(r"last-(\d+)", self.strategy, re.ASCII)
        return 1 if self.strategy == "head" else int(found[1]) if found else None
