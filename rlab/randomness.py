"""One random stream per member and per use, keyed by name: a new draw in one place changes nothing elsewhere."""

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

# Training envs are seeded in [2**30, 2**31), evaluation episodes below 2**30: the two never overlap.
FIRST_TRAINING_ENV_SEED = 2**30
WORDS = 624  # of the Mersenne Twister


def stream(member_seed: int, use: str) -> np.random.Generator:
    """The NumPy stream of one member for one named use, such as `"replay"` or `"exploration"`."""
    return np.random.default_rng(_sequence(member_seed, use))


def streams(member_seeds: Sequence[int], use: str) -> list[np.random.Generator]:
    """The NumPy streams of several members for one named use."""
    return [stream(seed, use) for seed in member_seeds]


def torch_stream(member_seed: int, use: str, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """The torch stream of one member for one named use."""
    import torch

    word = _sequence(member_seed, use).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(word >> np.uint64(1)))


def env_seed(member_seed: int, env_index: int, restart: int = 0) -> int:
    """The seed of one training sub-env, in [2**30, 2**31).

    `SeedSequence([member_seed, env_index])`, since "seed + i" would make member 0's second env equal member 1's
    first. `restart` counts how often the run was resumed, so that a resumed run does not replay its first episodes.
    """
    word = np.random.SeedSequence([member_seed, env_index, restart]).generate_state(1, np.uint32)[0]
    return FIRST_TRAINING_ENV_SEED + int(word) % FIRST_TRAINING_ENV_SEED


def global_seeds(seed: int, use: str) -> tuple[int, int, int]:
    """Seeds below 2**32 for the global generators of NumPy, `random` and torch, which other people's code draws from.

    Args:
        seed: a training seed, or one of a sub-env or an episode.
        use: the name of the stream, as for `stream`.
    """
    words = _sequence(seed, use).generate_state(3, np.uint32).tolist()
    return words[0], words[1], words[2]


def counter_key(member_seed: int, use: str, env_index: int | None = None) -> tuple[int, int]:
    """The two 32-bit words that key the counter-based numbers (`rlab.draws`) of a member, or of one of its sub-envs."""
    # A zero, which no name contains, keeps an env's index from reading as one more letter.
    further = [] if env_index is None else [0, env_index]
    words = _sequence(member_seed, use, further).generate_state(2, np.uint32).tolist()
    return words[0], words[1]


@contextmanager
def kept_generators() -> Iterator[None]:
    """A block that may draw from the global generators of NumPy, `random` and torch and restores them: training in an
    env that draws from them is the same with and without films and listeners."""
    import torch

    of_numpy, of_random, of_torch = np.random.get_state(legacy=False), random.getstate(), torch.get_rng_state()
    try:
        yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_random)
        torch.set_rng_state(of_torch)


def generator_states() -> dict[str, Any]:
    """Where the global generators of NumPy, `random` and torch stand, which other people's agents and layers draw from:
    nested dicts of arrays, tensors and plain values, for a checkpoint. torch's are None where it is not loaded."""
    torch = sys.modules.get("torch")
    version, words, gauss = random.getstate()
    return {
        "numpy": np.random.get_state(legacy=False),
        "random": {"version": version, "words": np.array(words, np.uint32), "gauss": gauss},
        "torch": None if torch is None else torch.get_rng_state().numpy(),
        "cuda": torch.cuda.get_rng_state_all() if torch is not None and torch.cuda.is_initialized() else [],
    }


def load_generator_states(states: Mapping[str, Any]) -> None:
    """Put the global generators back to where `generator_states` found them; GPUs where there are as many."""
    inner = states["numpy"]["state"]
    if inner["key"].shape != (WORDS,) or not 0 <= inner["pos"] <= WORDS:  # NumPy would read beyond the words
        raise ValueError("the state of NumPy's generator is not one")
    np.random.set_state(states["numpy"])
    of_random = states["random"]
    random.setstate((of_random["version"], tuple(of_random["words"].tolist()), of_random["gauss"]))
    if states["torch"] is None:
        return
    import torch

    torch.set_rng_state(torch.from_numpy(states["torch"].copy()))
    if states["cuda"] and torch.cuda.is_available() and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])


def _sequence(member_seed: int, use: str, further: Sequence[int] = ()) -> np.random.SeedSequence:
    # Four bytes or more: SeedSequence pads with zeros, so a shorter name could equal an env's [seed, index, restart].
    if len(use) < 4:
        raise ValueError(f"a stream's name needs four letters or more, not {use!r}")
    return np.random.SeedSequence([member_seed, *use.encode(), *further])
