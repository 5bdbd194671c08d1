"""What a policy that is asked by hand refuses: each in one line that names the value and the space."""

import pickle

import numpy as np
import pytest
import torch

from rlab.errors import UsageError
from rlab.networks.bodies import BodySettings, actor_network_spec
from rlab.networks.heads import build_head, stochastic_head_json
from rlab.networks.policy import MemberPolicy, PolicySpec, build_policy
from rlab.networks.spaces import Box, Dict, Discrete, Masked, MultiBinary, MultiDiscrete, Space, Tuple

VECTOR, IMAGE = Box((4,), "float32", -1.0, 1.0), Box((8, 8, 3), "uint8", 0.0, 255.0)
PLACE = Dict((("k", Discrete(3)), ("v", Tuple((VECTOR, MultiBinary((2,)))))))
PAIR = MultiDiscrete((2, 3), (0, 0), (2,))
ZEROS = np.zeros(4, np.float32)
NOT_FINITE = "Only finite numbers fit."


def asked(space: Space, actions: Space = Discrete(2)) -> MemberPolicy:  # noqa: B008  # it is frozen
    head = stochastic_head_json(actions, False)
    network = actor_network_spec(space, build_head(head, actions).width, BodySettings(hidden=(4,)))
    return build_policy(PolicySpec(space, actions, {"scaling": "none", "scale": None}, network, head), (0,)).member()


@pytest.mark.parametrize(
    ("space", "obs", "said"),
    [
        (VECTOR, [0, np.nan, 0, 0], f"an observation holds nan, but its space is Box((4,), float32). {NOT_FINITE}"),
        (VECTOR, ZEROS - np.inf, f"an observation holds -inf, but its space is Box((4,), float32). {NOT_FINITE}"),
        (VECTOR, [1e39, 0, 0, 0], "an observation holds 1e+39, but its space is Box((4,), float32)."),
        (VECTOR, torch.full((2, 4), torch.nan), "an observation holds nan, but its space is Box((4,), float32)."),
        (Discrete(3), 7, "an observation holds 7, but its space is Discrete(3), the integers 0 to 2."),
        (Discrete(3, 1), [1, 0], "an observation holds 0, but its space is Discrete(3), the integers 1 to 3."),
        (Discrete(3), 1.5, "an observation holds float64 numbers, but its space is Discrete(3), the integers 0 to 2."),
        (
            PAIR,
            [1, 3],
            "an observation holds 3, but its space is MultiDiscrete([2, 3]).",
        ),
        (MultiBinary((2,)), [0, 2], "an observation holds 2, but its space is MultiBinary(2,), zeros and ones."),
        (
            IMAGE,
            np.zeros((8, 8, 3)),
            "an observation holds float64 numbers, but its space is Box((8, 8, 3), uint8), the integers 0 to 255.",
        ),
        (IMAGE, torch.zeros(8, 8, 3), "an observation holds float32 numbers, but its space is Box((8, 8, 3), uint8), "),
        (IMAGE, np.full((8, 8, 3), 256), "an observation holds 256, but its space is Box((8, 8, 3), uint8), "),
        # 259 is 3 once it is a byte, and 3 - 3 = 0 would be in the space
        (
            PLACE,
            {"k": 259, "v": (ZEROS, [0, 1])},
            "the part 'k' of an observation holds 259, but its space is Discrete(3), the integers 0 to 2.",
        ),
        (
            PLACE,
            {"k": 2, "v": (ZEROS + np.nan, [0, 1])},
            "part 0 of the part 'v' of an observation holds nan, but its space is Box((4,), float32).",
        ),
        (PLACE, np.array([7.0, 0, 0, 0, 0, 0, 0]), "the part 'k' of an observation holds 7.0, but its space is Disc"),
        (Masked(VECTOR, 2), ZEROS + np.nan, "an observation holds nan, but its space is Box((4,), float32)."),
        (
            Masked(VECTOR, 2),
            np.array([0, 0, 0, 0, 1, 2.0]),
            "the mask of an observation holds 2.0, but its space is MultiBinary(2,), zeros and ones.",
        ),
    ],
)
def test_an_observation_that_its_space_does_not_hold_is_refused(space: Space, obs: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(space)(obs)
    assert str(caught.value).startswith(said)


def test_what_the_space_holds_passes_and_so_do_floats_beyond_their_bounds() -> None:
    for obs in (ZEROS, ZEROS + 40, ZEROS.tolist(), np.zeros((5, 4)), torch.zeros(5, 4), torch.zeros(4).bfloat16()):
        assert np.shape(asked(VECTOR)(obs)) == np.shape(obs)[:-1]
    whole = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    assert asked(IMAGE)(whole) == asked(IMAGE)(whole.astype(np.uint8)) in (0, 1)
    assert np.shape(asked(PLACE)({"k": 2, "v": (ZEROS, [0, 1])})) == ()
    assert pickle.dumps(asked(VECTOR))  # into a worker process


@pytest.mark.parametrize("space", [VECTOR, Masked(VECTOR, 2)], ids=["unmasked", "masked"])
def test_a_mask_that_allows_nothing_or_has_another_size_is_refused(space: Space) -> None:
    policy = asked(space)
    assert policy(ZEROS, mask=[False, True]) == 1
    said = r"^a mask allows no action of Discrete\(2\), the integers 0 to 1; every row needs one that is true\.$"
    for nothing in ([False, False], np.zeros(2, np.int8)):
        with pytest.raises(UsageError, match=said):
            policy(ZEROS, mask=nothing)
    with pytest.raises(UsageError, match=r"a mask of shape \(3,\) does not fit; expected "):
        policy(ZEROS, mask=[True, True, False])


def test_a_mask_must_allow_an_option_of_every_choice() -> None:
    policy = asked(VECTOR, PAIR)
    assert policy(ZEROS, mask=[False, True, False, False, True]).tolist() == [1, 2]
    said = r"^a mask allows no option of one of the choices of MultiDiscrete\(\[2, 3\]\); every row needs"
    with pytest.raises(UsageError, match=said):
        policy(ZEROS, mask=[True, True, False, False, False])


def test_the_ways_in_which_stable_baselines_asks_a_policy_are_answered() -> None:
    policy = asked(VECTOR)
    with pytest.raises(UsageError, match=r"^policy\(obs, deterministic=\.\.\.\): rlab calls it greedy; "):
        policy(ZEROS, deterministic=True)
    with pytest.raises(UsageError, match=r"^policy\(obs, zzz=\.\.\.\): unknown keyword 'zzz'\. Known: mask, "):
        policy(ZEROS, zzz=1)
    with pytest.raises(AttributeError, match=r"^a policy of rlab has no predict: call it, action = policy\(obs\)"):
        policy.predict(ZEROS)
    assert not hasattr(policy, "predict")
