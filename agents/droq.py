"""DroQ (Hiraoka et al. 2022): SAC with many updates per env step, which dropout and LayerNorm in the critics make up
for. With ten critics of which two are drawn for each target it is REDQ (Chen et al. 2021). Read from top to bottom."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlab.agents.sac import SAC, SACConfig
from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.learning.off_policy import OffPolicy
from rlab.networks.bodies import BodySettings
from rlab.networks.policy import PolicySpec
from rlab.networks.spaces import Space
from rlab.networks.spec import in_training
from rlab.ranges import check_counts, check_shares_below_one
from rlab.search_ranges import searched


@dataclass(frozen=True, kw_only=True)
class DroQConfig(SACConfig):
    """Settings of DroQ. REDQ is critics 10, target_critics 2, dropout 0, layer_norm off."""

    utd: int | None = 20  # Hiraoka et al. 2022, section 4: updates per env step, learn_every times as many in a round
    policy_delay: int | None = None  # updates of the critics for each of the policy; Hiraoka et al. 2022, algorithm 2
    layer_norm: bool = True  # behind the dropout of every hidden layer of the critics; Hiraoka et al. 2022, figure 1
    # share of the critics' hidden units set to zero, in their targets too; appendix
    dropout: float = searched(0.01, 1e-4, 0.1, "log", source="Hiraoka et al. 2022")
    critics: int = 2  # of each member; Hiraoka et al. 2022, section 4
    target_critics: int | None = None  # drawn of them for each target, of which the smallest value counts; None: all

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "critics", "target_critics")
        check_shares_below_one(self, "dropout")
        if self.target_critics is not None and self.target_critics > self.critics:
            raise UsageError(f"target_critics {self.target_critics} are more than the critics, {self.critics}.")


class DroQ(SAC):
    """Soft actor-critic at many updates per env step, with dropout in its critics; for numbers and choices."""

    Config: ClassVar[type] = DroQConfig
    config: DroQConfig

    def __init__(
        self,
        config: DroQConfig,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        start: PolicySpec | None = None,
    ) -> None:
        self.num_critics = config.critics
        super().__init__(config, obs_space, action_space, seeds, device, start)
        self._drawn = Draws(seeds, "target critics", device)

    @staticmethod
    def actor_body(config: Any) -> BodySettings:
        return replace(OffPolicy.actor_body(config), layer_norm=False)

    @staticmethod
    def critic_body(config: Any) -> BodySettings:
        return replace(OffPolicy.critic_body(config), dropout=config.dropout, dropout_first=True)

    def q_values(self, critics: Callable[..., Tensor], obs: Tensor, action: Tensor | None = None) -> Tensor:
        """With dropout on, in targets and for the policy too (Hiraoka et al. 2022, algorithm 2)."""
        assert isinstance(critics, nn.Module)
        return super().q_values(in_training(critics), obs, action)

    def agreed(self, critics: nn.Module, q: Tensor) -> Tensor:
        """Of the policy's actions the mean value counts, of targets the smallest of some critics, for each member its
        own (Chen et al. 2021, algorithm 1)."""
        if critics is self.critics:
            return q.mean(dim=1)
        if self.config.target_critics is not None:
            chosen = self._drawn.permutation(self.config.critics)[:, : self.config.target_critics]  # [S, M]
            q = q.gather(1, chosen.view(*chosen.shape, *(1 for _ in q.shape[2:])).expand(-1, -1, *q.shape[2:]))
        return q.amin(dim=1)

    def _parts(self) -> dict[str, Any]:
        return {**super()._parts(), "drawn critics": self._drawn}
