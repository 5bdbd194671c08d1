"""A network of one's own, as anybody would write one: `rlab train ppo CartPole-v1 --network own_network:residual`."""

import torch
from torch import nn


class Residual(nn.Module):
    """Two blocks that add to what they read."""

    def __init__(self, inputs, width):
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, x):  # [B, inputs] -> [B, width]; rlab adds the policy and the value behind it
        x = self.first(x)
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return x


def residual(shape):  # shape: what one observation is to a network, (features,) or (channels, height, width)
    return Residual(shape[0], width=32)


def layers(shape, settings):  # a sequence of layers that rlab knows runs as fast as rlab's own networks
    return nn.Sequential(
        nn.Linear(shape[0], 32), nn.LayerNorm(32), nn.Tanh(), nn.Sequential(nn.Linear(32, 16), nn.ReLU())
    )
