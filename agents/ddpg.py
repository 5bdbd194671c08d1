"""Deep deterministic policy gradients (Lillicrap et al. 2016): TD3 with one critic, and with neither smoothing nor
delay."""

from dataclasses import dataclass
from typing import ClassVar

from rlab.agents.td3 import TD3, TD3Config


@dataclass(frozen=True, kw_only=True)
class DDPGConfig(TD3Config):
    """Settings of DDPG; numbers as TD3's authors compared the two with (Fujimoto et al. 2018, section 6.1)."""

    policy_delay: int | None = 1  # updates of the critic for each of the policy and the targets
    target_noise: float = 0.0  # standard deviation of the noise of target actions; TD3 has 0.2


class DDPG(TD3):
    """Deep deterministic policy gradients: a deterministic policy for continuous actions, and its critic."""

    Config: ClassVar[type] = DDPGConfig
    num_critics = 1
