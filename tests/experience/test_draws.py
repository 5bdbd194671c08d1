"""Counter-based random numbers: Random123's known answers, the same numbers in every way of drawing them, and their
distributions at fixed seeds."""

import math
import shutil

import numpy as np
import pytest
import torch

from rlab.draws import WORD, Draws, key_schedule, philox, programs_ran

WAYS = {
    "words": lambda draws: draws.words(5),
    "uniform": lambda draws: draws.uniform(3, 2),
    "normal": lambda draws: draws.normal(5),
    "gumbel": lambda draws: draws.gumbel(2, 3),
    "logistic": lambda draws: draws.logistic(7),
    "integers": lambda draws: draws.integers(10, 4),
    "integers below a tensor": lambda draws: draws.integers(torch.tensor([3, 1000]), 2),
    "bernoulli": lambda draws: draws.bernoulli(0.3, 9),
    "permutation": lambda draws: draws.permutation(6),
}
EXACT = ("words", "uniform", "integers", "integers below a tensor", "bernoulli", "permutation")


def agree(way, numbers, others):
    """Numbers made of words alone are equal. The others pass through float64 functions, which two ways of computing may
    round differently in the last bit, so that their float32 differs by a rounding, of at most 2**-20 below 32."""
    tolerance = 0.0 if way in EXACT else 2.0**-20
    torch.testing.assert_close(numbers, others, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, words):  # its file kat_vectors, philox4x32 10
    parse = lambda text: [torch.tensor([int(word, 16)]) for word in text.split()]  # noqa: E731
    keys = key_schedule(torch.stack(parse(key)))
    assert philox(parse(counter), keys) == parse(words)


def test_a_number_is_word_i_mod_4_of_the_counter_i_div_4_and_draw():
    draws = Draws([7], "exploration", "cpu")
    draws.load_state({"draw": 3 * 2**32 + 5})
    words = draws.words(6)
    key = np.random.SeedSequence([7, *b"exploration"]).generate_state(2, np.uint32).tolist()
    keys = key_schedule(torch.tensor(key)[:, None])
    by_hand = [philox([torch.tensor([w]) for w in (block, 5, 3, 0)], keys) for block in (0, 1)]
    assert words.tolist() == [[int(word) for word in (*by_hand[0], *by_hand[1][:2])]]


def test_philox_leaves_its_counter_as_it_was_and_broadcasts_any_of_its_words():
    keys = key_schedule(torch.tensor([[[1], [2]], [[3], [4]]]))
    for long in range(4):
        counter = [torch.arange(5) if word == long else torch.tensor(9) for word in range(4)]
        before = [word.clone() for word in counter]
        together = torch.stack(philox(counter, keys))
        assert together.shape == (4, 2, 5)
        assert all(torch.equal(a, b) for a, b in zip(counter, before, strict=True))
        full = philox([word.expand(2, 5).clone() for word in counter], keys)
        assert torch.equal(together, torch.stack(full))


@pytest.mark.parametrize("way", WAYS)
def test_a_members_numbers_do_not_depend_on_the_other_members(way):
    together, alone = Draws([3, 1, 8], "replay", "cpu", ahead=4), Draws([8], "replay", "cpu")
    for _ in range(6):
        assert torch.equal(WAYS[way](together)[2:], WAYS[way](alone))


def test_a_sub_envs_numbers_do_not_depend_on_the_number_of_envs():
    many, few = Draws.of_envs([3, 8], 5, "dynamics", "cpu"), Draws.of_envs([8], 2, "dynamics", "cpu")
    numbers = many.uniform(3)
    assert numbers.shape == (2, 5, 3)
    assert torch.equal(numbers[1:, :2], few.uniform(3))
    assert numbers.flatten(0, 1).unique(dim=0).shape == (10, 3)


def test_uses_seeds_and_draws_differ():
    rows = [Draws([seed], use, "cpu") for seed in (1, 2) for use in ("actions", "replay")]
    numbers = torch.cat([draws.uniform(4) for draws in rows for _ in range(2)])
    assert numbers.unique(dim=0).shape == (8, 4)


@pytest.mark.parametrize("way", WAYS)
def test_working_ahead_changes_no_number(way):
    one, many = Draws([1, 2], "actions", "cpu"), Draws([1, 2], "actions", "cpu", ahead=64)
    for _ in range(70):
        assert torch.equal(WAYS[way](one), WAYS[way](many))


def test_another_method_or_shape_takes_the_next_draw_and_no_draw_of_the_block():
    plain, ahead = Draws([1], "actions", "cpu"), Draws([1], "actions", "cpu", ahead=8)
    for way in ("uniform", "uniform", "bernoulli", "words", "integers", "uniform", "integers below a tensor", "normal"):
        assert torch.equal(WAYS[way](plain), WAYS[way](ahead)), way
    assert ahead.state() == plain.state() == {"draw": 8}
    assert int(ahead.counter) == 8


@pytest.mark.parametrize("way", WAYS)
def test_a_traced_program_draws_the_numbers_of_eager_calls_and_other_ones_at_each_run(way):
    draws, eager = Draws([1, 2], "actions", "cpu", ahead=4), Draws([1, 2], "actions", "cpu")
    torch._dynamo.reset()  # it compiles one piece of code eight times, and no more
    program = torch.compile(lambda: WAYS[way](draws), backend="eager", fullgraph=True)
    for run in range(3):
        traced = program()
        programs_ran()
        agree(way, traced, WAYS[way](eager))
        assert int(draws.counter) == 2 * run + 1
        agree(way, WAYS[way](draws), WAYS[way](eager))  # an eager call in between goes on where the program stopped


@pytest.mark.prove
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_compiled_code_draws_the_numbers_of_eager_calls():
    draws, eager = Draws([1, 2], "actions", "cpu"), Draws([1, 2], "actions", "cpu", ahead=2)
    ways = ["uniform", "normal", "integers below a tensor"]
    program = torch.compile(lambda: [WAYS[way](draws) for way in ways], fullgraph=True)
    for _ in range(2):
        for way, numbers in zip(ways, program(), strict=True):
            agree(way, numbers, WAYS[way](eager))


def test_a_block_stays_where_a_program_advanced_other_counters_alone():
    draws = Draws([1], "actions", "cpu", ahead=4)
    first = draws.uniform(2)
    programs_ran()
    assert draws.uniform(2).untyped_storage().data_ptr() == first.untyped_storage().data_ptr()


@pytest.mark.parametrize("ahead", [1, 8])
def test_going_on_from_a_saved_state_gives_the_very_next_draw(ahead):
    draws = Draws([4, 5], "replay", "cpu", ahead=ahead)
    for _ in range(3):
        draws.integers(100, 6)
    state = draws.state()
    expected = [draws.integers(100, 6), draws.integers(100, 6)]
    other = Draws([4, 5], "replay", "cpu", ahead=ahead)
    other.integers(100, 6)
    other.load_state(state)
    assert [other.integers(100, 6).tolist() for _ in range(2)] == [numbers.tolist() for numbers in expected]
    draws.load_state(state)
    assert torch.equal(draws.integers(100, 6), expected[0])


def test_the_state_counts_what_a_program_drew():
    draws = Draws([1], "actions", "cpu")
    draws.counter.add_(7)  # as a program does
    programs_ran()
    assert draws.state() == {"draw": 7}


def test_shapes_and_dtypes():
    draws = Draws([1, 2], "actions", "cpu")
    for method in (draws.uniform, draws.normal, draws.gumbel, draws.logistic):
        for shape in ((), (1,), (0,), (5,), (2, 3)):
            numbers = method(*shape)
            assert (numbers.shape, numbers.dtype) == ((2, *shape), torch.float32)
    assert (draws.bernoulli(0.5, 3).shape, draws.bernoulli(0.5).dtype) == ((2, 3), torch.bool)
    assert (draws.integers(9, 3).shape, draws.integers(9).dtype) == ((2, 3), torch.int64)
    assert (draws.permutation(3).shape, draws.permutation(3).dtype) == ((2, 3), torch.int64)


# The distance of n numbers' distribution function from the true one is above 1.95 / sqrt(n) once in a thousand seeds
# (Kolmogorov 1933), and the seeds are fixed.
DISTRIBUTIONS = {
    "uniform": lambda x: x,
    "normal": torch.special.ndtr,
    "gumbel": lambda x: (-(-x).exp()).exp(),
    "logistic": torch.sigmoid,
}


@pytest.mark.parametrize("method", DISTRIBUTIONS)
def test_numbers_have_their_distribution_within_a_draw_and_from_draw_to_draw(method):
    n = 20_000
    draws = Draws([11], "actions", "cpu", ahead=256)
    within, between = getattr(draws, method)(n)[0], torch.stack([getattr(draws, method)(2)[0, 1] for _ in range(n)])
    for numbers in (within, between):
        share = DISTRIBUTIONS[method](numbers.double().sort().values)
        steps = torch.arange(n + 1, dtype=torch.float64) / n
        distance = torch.maximum((steps[1:] - share).max(), (share - steps[:-1]).max())
        assert distance < 1.95 / math.sqrt(n)


def test_pairs_of_normal_numbers_are_not_correlated():
    pairs = Draws([11], "actions", "cpu").normal(20_000, 2)[0]
    assert abs(torch.corrcoef(pairs.T)[0, 1]) < 4 / math.sqrt(20_000)  # four standard deviations


def test_the_extreme_words_give_finite_numbers(monkeypatch):
    for word in (0, WORD):
        monkeypatch.setattr("rlab.draws.philox", lambda counter, keys, word=word: [torch.full((1, 1), word)] * 4)
        draws = Draws([1], "actions", "cpu")
        for method in (draws.normal, draws.gumbel, draws.logistic):
            assert method(4).isfinite().all()
        assert draws.uniform(4).max() < 1
        assert draws.integers(2**31, 4).max() == word >> 1


def test_integers_come_equally_often():
    draws = Draws([11], "replay", "cpu")
    counts = torch.bincount(draws.integers(10, 20_000)[0], minlength=10)
    assert counts.sum() == 20_000
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi-square of 9 degrees of freedom, once in a thousand


def test_integers_below_a_tensor_stay_below_each_of_its_numbers():
    draws, high = Draws([11, 12], "replay", "cpu"), torch.tensor([[1], [7]])
    numbers = draws.integers(high, 5000)
    assert numbers[0].max() == 0
    assert numbers[1].unique().tolist() == list(range(7))
    draws.load_state({"draw": 0})
    assert torch.equal(draws.integers(7, 5000)[1], numbers[1])


def test_bernoulli_is_true_with_its_probability_and_takes_one_for_each_number():
    draws, n = Draws([11], "actions", "cpu"), 20_000
    shares = draws.bernoulli(torch.tensor([[0.0], [0.3], [1.0]]), 3, n)[0].double().mean(dim=-1)
    assert shares[0] == 0
    assert shares[2] == 1
    assert abs(shares[1] - 0.3) < 4 * math.sqrt(0.3 * 0.7 / n)  # four standard deviations


def test_a_permutation_holds_every_number_once_and_every_place_is_equally_likely():
    draws, rounds = Draws([11], "batches", "cpu", ahead=500), 4000
    orders = torch.cat([draws.permutation(5) for _ in range(rounds)])
    assert torch.equal(orders.sort(dim=-1).values, torch.arange(5).expand(rounds, 5))
    for place in range(5):
        counts = torch.bincount(orders[:, place], minlength=5)
        assert ((counts - rounds / 5) ** 2 / (rounds / 5)).sum() < 18.5  # 4 degrees of freedom, once in a thousand


def test_draws_that_move_to_another_device_draw_there_and_go_on_with_their_next_draw():
    draws, elsewhere = Draws((3, 4), "some use", "cpu", ahead=4), torch.device("meta")  # a device without memory
    draws.uniform(2)
    assert draws.to(torch.device("cpu")) is draws.to(elsewhere) is draws
    assert draws.uniform(2).device == draws.counter.device == elsewhere
    assert draws.state() == {"draw": 2}


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="ahead must be at least 1, not 0"):
        Draws([1], "actions", "cpu", ahead=0)
    with pytest.raises(ValueError, match=r"high must be in \[1, 2\*\*31\], not 0"):
        Draws([1], "actions", "cpu").integers(0, 2)
    with pytest.raises(ValueError, match="four letters or more"):
        Draws([1], "act", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("way", WAYS)
def test_a_gpu_draws_the_cpus_numbers_and_each_replay_of_a_graph_draws_anew(way):
    def move(value):
        return value.cuda() if isinstance(value, torch.Tensor) else value

    on_gpu, on_cpu = Draws([1, 2], "actions", "cuda"), Draws([1, 2], "actions", "cpu")
    high = move(torch.tensor([3, 1000]))
    draw = (lambda draws: draws.integers(high, 2)) if way == "integers below a tensor" else WAYS[way]
    for _ in range(2):
        agree(way, draw(on_gpu).cpu(), WAYS[way](on_cpu))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        numbers = draw(on_gpu)
    for _ in range(3):
        graph.replay()
        programs_ran()
        agree(way, numbers.cpu(), WAYS[way](on_cpu))
    agree(way, draw(on_gpu).cpu(), WAYS[way](on_cpu))
