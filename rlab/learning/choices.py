"""The names that settings with a closed set of values can have, as types: the command line shows and checks them
without importing torch. A test holds each of them against the table of what the names stand for."""

from typing import Literal

Activation = Literal["relu", "tanh", "elu", "gelu", "silu", "leaky_relu"]
Init = Literal["pytorch", "orthogonal", "xavier", "he"]
ObsScaling = Literal["none", "fixed", "running"]
RewardScaling = Literal["none", "running"]
Optimizer = Literal["sgd", "momentum", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "radam"]
LrSchedule = Literal["constant", "linear", "cosine", "step"]
Replay = Literal["uniform", "prioritised"]
ValueLoss = Literal["huber", "squared"]
ValueHead = Literal["q", "c51", "qr", "iqn"]
DemonstrationLoss = Literal["none", "margin", "conservative"]
CloningLoss = Literal["likelihood", "squared"]
Novelty = Literal["none", "rnd"]
Hindsight = Literal["none", "future", "final", "episode"]
EncoderObjective = Literal["inverse", "forward", "dynamics", "classification"]
Memory = Literal["none", "gru", "lstm", "transformer"]
Noise = Literal["normal", "ornstein_uhlenbeck", "pink"]
