"""Policy heads: probabilities that torch.distributions and paper agree with, and samples that follow them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions as td

from rlab.errors import UsageError
from rlab.networks.distributions import normal_log_mass_below
from rlab.networks.heads import StochasticHead, build_head, draw_noise, head_class, stochastic_head_json
from rlab.networks.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

INF = math.inf
PENDULUM = Box((1,), "float32", -2.0, 2.0)
UNEVEN = Box((3,), "float32", (-1.0, 0.0, 10.0), (1.0, 5.0, 14.0))  # middle 0, 2.5, 12; half the range 1, 2.5, 2
GRID = MultiDiscrete((2, 4, 3, 2), (0, -1, 5, 0), (2, 2))
CASES = {
    "categorical": Discrete(4, start=-1),
    "multi_categorical": GRID,
    "bernoulli": MultiBinary((2, 3)),
    "gaussian": UNEVEN,
    "squashed_gaussian": UNEVEN,
}
SQRT_HALF = 0.5**0.5


def head_of(space, squash=False):
    head = build_head(stochastic_head_json(space, squash), space)
    assert isinstance(head, StochasticHead)
    return head


@pytest.fixture(params=list(CASES))
def head(request):
    return head_of(CASES[request.param], request.param == "squashed_gaussian")


def outputs_of(head, *lead, seed=0, dtype=torch.float32):
    return torch.randn(*lead, head.width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def noise_of(head, *lead, seed=0):
    return draw_noise(head.noise, (*lead, head.noise_width), torch.Generator().manual_seed(seed))


def samples(head, outputs, count, mask=None, seed=0):
    """`count` actions drawn with the same outputs `[width]`."""
    mask = None if mask is None else mask.expand(count, -1)
    return head.act(outputs.expand(count, -1), mask, noise_of(head, count, seed=seed))


def chi_square(counts, probabilities):
    """Pearson's statistic; with k options its mean is k - 1 and its variance 2(k - 1)."""
    expected = counts.sum() * probabilities
    return ((counts - expected).square() / expected).sum().item()


# What torch.distributions says


def test_categorical_is_torchs():
    head = head_of(Discrete(4))
    logits = outputs_of(head, 3, 5)
    action, reference = head.act(logits, noise=noise_of(head, 3, 5)), td.Categorical(logits=logits)
    torch.testing.assert_close(head.log_prob(logits, action), reference.log_prob(action))
    torch.testing.assert_close(head.entropy(logits), reference.entropy())


def test_masked_categorical_is_torchs_over_the_actions_that_are_left():
    head = head_of(Discrete(4))
    logits = outputs_of(head, 5)
    mask = torch.tensor([True, False, True, True])
    left, action = td.Categorical(logits=logits[:, mask]), torch.tensor([0, 2, 3, 0, 2])
    place = torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(head.log_prob(logits, action, mask.expand(5, 4)), left.log_prob(place))
    torch.testing.assert_close(head.entropy(logits, mask.expand(5, 4)), left.entropy())
    assert head.log_prob(logits[:1], torch.tensor([1]), mask[None]).item() == -INF


@pytest.mark.parametrize("masked", [False, True])
def test_multi_categorical_is_one_of_torchs_per_choice(masked):
    head = head_of(GRID)
    logits = outputs_of(head, 3, 5)
    mask = torch.rand(3, 5, 11, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[..., [0, 2, 6, 9]] = True  # the first of each choice
    action = head.act(logits, mask if masked else None, noise_of(head, 3, 5))
    assert action.shape == (3, 5, 2, 2)
    log_prob, entropy = torch.zeros(3, 5), torch.zeros(3, 5)
    for i, (first, n) in enumerate([(0, 2), (2, 4), (6, 3), (9, 2)]):
        own = logits[..., first : first + n]
        if masked:
            own = own.masked_fill(~mask[..., first : first + n], -1e9)
        reference = td.Categorical(logits=own)
        log_prob, entropy = log_prob + reference.log_prob(action.flatten(-2)[..., i]), entropy + reference.entropy()
    given_ = mask if masked else None
    torch.testing.assert_close(head.log_prob(logits, action, given_), log_prob)
    torch.testing.assert_close(head.entropy(logits, given_), entropy)


def test_a_choice_of_which_a_mask_allows_nothing_may_take_anything():
    head = head_of(MultiDiscrete((2, 3), (0, 0), (2,)))
    logits = outputs_of(head, 1)
    mask = torch.tensor([[False, True, False, False, False]])
    action = head.act(logits, mask)
    assert action.tolist() == [[1, logits[0, 2:].argmax().item()]]
    expected = td.Categorical(logits=logits[:, 2:]).log_prob(action[:, 1])
    torch.testing.assert_close(head.log_prob(logits, action, mask), expected)


def test_bernoulli_is_torchs():
    head = head_of(MultiBinary((2, 3)))
    logits = outputs_of(head, 4)
    action, reference = head.act(logits, noise=noise_of(head, 4)), td.Bernoulli(logits=logits)
    assert (action.shape, action.dtype) == ((4, 2, 3), torch.int8)
    torch.testing.assert_close(head.log_prob(logits, action), reference.log_prob(action.flatten(1).float()).sum(-1))
    torch.testing.assert_close(head.entropy(logits), reference.entropy().sum(-1))


def test_inside_the_bounds_gaussian_is_torchs_normal_in_normalised_units():
    head = head_of(UNEVEN)
    mean, log_std = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([-2.0, -1.5, -1.0])
    normalised = torch.tensor([0.2, -0.4, 0.5])
    action = torch.tensor([0.2, 1.5, 13.0])  # 0 + 1 * 0.2, 2.5 - 2.5 * 0.4, 12 + 2 * 0.5
    reference = td.Normal(mean, log_std.exp())
    outputs = torch.cat([mean, log_std])
    torch.testing.assert_close(head.log_prob(outputs, action), reference.log_prob(normalised).sum())
    torch.testing.assert_close(head.entropy(outputs), reference.entropy().sum())
    torch.testing.assert_close(head.act(outputs), torch.tensor([0.1, 2.0, 12.6]))


def test_at_a_bound_gaussian_is_the_normals_mass_beyond_it():
    head = head_of(PENDULUM)
    outputs = torch.tensor([0.5, math.log(0.5)]).double()
    reference = td.Normal(torch.tensor(0.5).double(), 0.5)
    for bound, mass in ((-2.0, reference.cdf(torch.tensor(-1.0))), (2.0, 1 - reference.cdf(torch.tensor(1.0)))):
        torch.testing.assert_close(head.log_prob(outputs, torch.tensor([bound])), mass.log(), rtol=1e-6, atol=0.0)
    # one standard deviation above the mean: 0.158655 of the mass
    assert head.log_prob(outputs, torch.tensor([2.0])).exp().item() == pytest.approx(0.158655, abs=1e-6)


def test_mass_and_density_of_a_clipped_gaussian_integrate_to_one():
    head = head_of(PENDULUM)
    outputs = torch.tensor([-0.6, math.log(0.7)]).double()
    inside = torch.linspace(-1.0, 1.0, 20_001).double()[1:-1]
    density = head.log_prob(outputs.expand(len(inside), 2), 2.0 * inside[:, None]).exp()
    masses = head.log_prob(outputs.expand(2, 2), torch.tensor([[-2.0], [2.0]])).exp()
    # density per normalised unit, as said; the trapezoids at both ends are missing, and each is about 5e-5
    assert (density.sum() * 1e-4 + masses.sum()).item() == pytest.approx(1.0, abs=1e-4)


def test_squashed_gaussian_is_torchs_transformed_normal_in_normalised_units():
    head = head_of(UNEVEN, squash=True)
    outputs = outputs_of(head, 50, dtype=torch.float64) * 0.5
    action = head.act(outputs, noise=noise_of(head, 50))
    mean, log_std = outputs.chunk(2, dim=-1)
    reference = td.TransformedDistribution(td.Normal(mean, log_std.exp()), [td.TanhTransform()])
    middle, scale = torch.tensor([0.0, 2.5, 12.0]), torch.tensor([1.0, 2.5, 2.0])
    expected = reference.log_prob((action.double() - middle) / scale).sum(-1)
    # the actions are float32: near a bound that is what limits both
    torch.testing.assert_close(head.log_prob(outputs, action), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head.act(outputs), (middle + scale * mean.tanh()).float())


@pytest.mark.parametrize(
    ("mean", "std", "quadrature"),  # the last is how far 16 nodes are off
    [(0.0, 0.1, 2e-5), (0.0, 1.0, 2e-5), (1.5, 0.5, 2e-5), (0.0, 2.0, 4e-3), (-3.0, 2.0, 4e-3), (0.5, 4.0, 0.06)],
)
def test_a_squashed_gaussians_entropy_is_what_sampling_finds(mean, std, quadrature):
    head = head_of(PENDULUM, squash=True)
    outputs = torch.tensor([mean, math.log(std)]).double()
    value = mean + std * torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # -log p(tanh(u)) = -log p(u) + log(1 - tanh(u)^2), the last through cosh, which these values do not overflow
    surprise = -td.Normal(mean, std).log_prob(value) - 2.0 * value.cosh().log()
    error = surprise.std() / math.sqrt(len(surprise))
    assert abs(head.entropy(outputs) - surprise.mean()) < 4 * error + quadrature


# Numbers on paper


def test_probabilities_worked_by_hand():
    thirds = torch.tensor([math.log(1.0), math.log(2.0), math.log(3.0)])  # 1/6, 2/6, 3/6
    head = head_of(Discrete(3))
    assert head.log_prob(thirds, torch.tensor(1)).exp().item() == pytest.approx(1 / 3)
    mask = torch.tensor([True, False, True])  # 1/4 and 3/4 are left
    assert head.log_prob(thirds, torch.tensor(2), mask).exp().item() == pytest.approx(0.75)
    expected = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert head.entropy(thirds, mask).item() == pytest.approx(expected)
    bits = head_of(MultiBinary((2,)))
    # logits log 3 and -log 3: 3/4 and 1/4; both as likely as not to be as they are is 3/4 * 3/4
    logits = torch.tensor([math.log(3), -math.log(3)])
    assert bits.log_prob(logits, torch.tensor([1, 0], dtype=torch.int8)).exp().item() == pytest.approx(0.5625)


def test_unperturbed_actions_are_the_likeliest_in_the_form_that_envs_and_replay_want():
    categorical, grid, bits = head_of(Discrete(3, start=7)), head_of(GRID), head_of(MultiBinary((3,)))
    action = categorical.act(torch.tensor([[0.0, 3.0, 1.0]]))
    assert (action.tolist(), action.dtype, categorical.to_env(action).tolist()) == ([1], torch.int64, [8])
    logits = torch.tensor([0.0, 1.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, -1.0, -2.0])
    choice = grid.act(logits)
    assert (choice.tolist(), choice.dtype) == ([[1, 0], [2, 0]], torch.int64)
    assert grid.to_env(choice).tolist() == [[1, -1], [7, 0]]
    answer = bits.act(torch.tensor([-1.0, 2.0, 0.1]))
    assert (answer.tolist(), bits.to_env(answer).dtype) == ([0, 1, 1], torch.int8)


def test_an_element_without_two_finite_bounds_keeps_its_own_unit():
    largest = float(np.finfo(np.float32).max)
    space = Box((4,), "float32", (-INF, 0.0, -4.0, -largest), (INF, INF, 4.0, largest))
    head = head_of(space)
    assert head.act(torch.tensor([0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0])).tolist() == [0.5, 0.5, 2.0, 0.5]
    assert head.act(torch.tensor([-9e6, -3.0, -3.0, -7.0, 0, 0, 0, 0])).tolist() == [-9e6, 0.0, -4.0, -7.0]
    outputs = torch.tensor([0.0, 1.0, 0.0, 0.0, 0, 0, 0, 0])
    density = td.Normal(0.0, 1.0).log_prob(torch.tensor(0.0)).item()
    below = td.Normal(1.0, 1.0).cdf(torch.tensor(0.0)).log().item()  # the half line's bound is 0 in its own unit
    assert head.log_prob(outputs, torch.zeros(4)).item() == pytest.approx(3 * density + below)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_actions_stay_inside_bounds_that_float32_cannot_state(sign):
    # in float32 0.7 is below 0.7 and 1.1 above 1.1; the other bounds are past its largest number
    head = head_of(Box((2,), "float64", (0.7, -1e300), (1.1, 1e300)))
    outputs = torch.tensor([sign * 50.0, sign * INF, 0.0, 0.0])
    action = head.to_env(head.act(outputs))
    assert action.dtype == torch.float64
    assert 0.7 <= action[0].item() <= 1.1
    assert action[0].item() == pytest.approx(0.9 + sign * 0.2, abs=1e-6)
    assert abs(action[1].item()) == np.finfo(np.float32).max
    # both are found to be at a bound, also as the float64 that a rollout of such actions keeps
    outputs = torch.tensor([sign, sign * np.finfo(np.float32).max, 0.0, 0.0])
    assert head.log_prob(outputs, action).item() == pytest.approx(2 * math.log(0.5), abs=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_an_env_gets_continuous_actions_in_its_own_dtype(dtype):
    head = head_of(Box((2, 2), dtype, -1.0, 1.0))
    action = head.act(torch.zeros(3, 8))
    assert (action.shape, action.dtype) == ((3, 2, 2), torch.float32)
    assert head.to_env(action).dtype == getattr(torch, dtype)


# Samples


def test_gumbel_samples_follow_the_softmax():
    head, logits = head_of(Discrete(4)), torch.tensor([0.0, 1.0, -1.0, 0.5])
    counts = torch.bincount(samples(head, logits, 40_000), minlength=4)
    assert chi_square(counts, logits.softmax(0)) < 16.3  # the 0.1% point of 3 degrees of freedom
    mask = torch.tensor([True, False, True, True])
    counts = torch.bincount(samples(head, logits, 40_000, mask), minlength=4)
    assert counts[1] == 0
    assert chi_square(counts[mask], logits[mask].softmax(0)) < 13.8  # of 2


def test_samples_of_several_choices_follow_the_product_of_their_softmaxes():
    head = head_of(MultiDiscrete((2, 3), (0, 0), (2,)))
    logits = torch.tensor([0.0, 1.0, 1.0, -1.0, 0.5])
    action = samples(head, logits, 40_000)
    counts = torch.bincount(action[:, 0] * 3 + action[:, 1], minlength=6)
    joint = logits[:2].softmax(0)[:, None] * logits[2:].softmax(0)
    assert chi_square(counts, joint.flatten()) < 20.5  # the 0.1% point of 5 degrees of freedom


def test_samples_of_bits_follow_the_product_of_their_sigmoids():
    head, logits = head_of(MultiBinary((2,))), torch.tensor([0.5, -1.0])
    action = samples(head, logits, 40_000).long()
    p = logits.sigmoid()
    joint = torch.stack([1 - p[0], p[0]])[:, None] * torch.stack([1 - p[1], p[1]])
    assert chi_square(torch.bincount(action[:, 0] * 2 + action[:, 1], minlength=4), joint.flatten()) < 16.3


@pytest.mark.parametrize("squash", [False, True])
def test_samples_of_continuous_actions_follow_log_prob(squash):
    head = head_of(PENDULUM, squash)
    outputs = torch.tensor([0.4, math.log(0.8)])
    action = samples(head, outputs, 40_000)[:, 0]
    edges = torch.linspace(-2.0, 2.0, 9)
    inner = torch.linspace(-1.0, 1.0, 8_001)[1:-1] * (1 - 1e-7)
    density = head.log_prob(outputs.expand(len(inner), 2), 2.0 * inner[:, None]).exp() / 4_000
    shares = [density[(inner > low) & (inner <= high)].sum() for low, high in (edges / 2).unfold(0, 2, 1)]
    counts = [((action > low) & (action <= high) & (action.abs() < 2)).sum() for low, high in edges.unfold(0, 2, 1)]
    if not squash:  # the bounds have a mass of their own
        shares += head.log_prob(outputs.expand(2, 2), torch.tensor([[-2.0], [2.0]])).exp().unbind()
        counts += [(action == -2).sum(), (action == 2).sum()]
    assert sum(counts) == 40_000
    assert float(sum(shares)) == pytest.approx(1.0, abs=2e-3)
    limit = 24.3 if squash else 27.9  # the 0.1% points of 7 and 9 degrees of freedom
    assert chi_square(torch.stack(counts).double(), torch.stack(shares).double()) < limit


@pytest.mark.parametrize("kind", ["gumbel", "logistic", "normal"])
def test_noise_has_the_moments_and_tails_of_its_kind(kind):
    noise = draw_noise(kind, (200_000,), torch.Generator().manual_seed(0))
    assert noise.dtype == torch.float32
    mean = {"gumbel": 0.5772157}.get(kind, 0.0)
    variance = {"gumbel": math.pi**2 / 6, "logistic": math.pi**2 / 3, "normal": 1.0}[kind]
    assert noise.mean().item() == pytest.approx(mean, abs=0.02)  # standard deviations are 0.004 and less
    assert noise.var().item() == pytest.approx(variance, rel=0.03)
    again = draw_noise(kind, (200_000,), torch.Generator().manual_seed(0))
    assert torch.equal(again, noise)


@pytest.mark.parametrize("kind", ["gumbel", "logistic"])
@pytest.mark.parametrize("drawn", [0.0, 1.0 - 2.0**-53])
def test_noise_is_finite_for_the_ends_of_the_uniform_numbers_behind_it(monkeypatch, kind, drawn):
    monkeypatch.setattr(torch, "rand", lambda shape, dtype, **_: torch.full(shape, drawn, dtype=dtype))
    assert draw_noise(kind, (3,), torch.Generator()).isfinite().all()


# Gradients


def test_gradients_equal_finite_differences(head):
    outputs = outputs_of(head, 6, dtype=torch.float64).requires_grad_()
    action = head.act(outputs.detach(), noise=noise_of(head, 6))
    assert torch.autograd.gradcheck(lambda o: (head.log_prob(o, action), head.entropy(o)), outputs)
    if head.mask_width is not None:
        mask = outputs_of(head, 6, seed=1) > 0
        mask[:, -1] = True
        action = head.act(outputs.detach(), mask, noise_of(head, 6))
        functions = lambda o: (head.log_prob(o, action, mask), head.entropy(o, mask))  # noqa: E731
        assert torch.autograd.gradcheck(functions, outputs)


def test_gradients_at_the_bounds_equal_finite_differences():
    head = head_of(UNEVEN)
    outputs = outputs_of(head, 2, dtype=torch.float64).requires_grad_()
    action = torch.tensor([[-1.0, 5.0, 12.0], [1.0, 0.0, 14.0]])
    assert torch.autograd.gradcheck(lambda o: head.log_prob(o, action), outputs)


@pytest.mark.parametrize("z", [-1e6, -1e3, -30.0, -1.0, -0.5, 0.0, 5.0, 30.0])
def test_the_mass_below_a_point_and_its_slope_are_exact_in_float32(z):
    x = torch.tensor(z, requires_grad=True)
    value = normal_log_mass_below(x)
    value.backward()
    # scaled as erfc(x) = exp(-x^2) erfcx(x), in double precision
    scaled = torch.special.erfcx(torch.tensor(-z * SQRT_HALF, dtype=torch.float64)).item() / 2
    log_mass = math.log1p(-math.erfc(z * SQRT_HALF) / 2) if z > -1 else math.log(scaled) - z * z / 2
    slope = 0.0 if math.isinf(scaled) else 1 / (scaled * math.sqrt(2 * math.pi))
    assert value.item() == pytest.approx(log_mass, rel=1e-6, abs=1e-30)
    assert x.grad.item() == pytest.approx(slope, rel=1e-5, abs=1e-30)


numbers = st.floats(-60.0, 60.0, width=32)


@given(st.sampled_from(list(CASES)), st.data())
def test_what_was_acted_has_a_finite_log_prob_with_finite_gradients(kind, data):
    head = head_of(CASES[kind], kind == "squashed_gaussian")
    drawn = data.draw(st.lists(numbers, min_size=head.width, max_size=head.width))
    outputs = torch.tensor([drawn], requires_grad=True)
    noise = noise_of(head, 1, seed=data.draw(st.integers(0, 99))) if data.draw(st.booleans()) else None
    action = head.act(outputs.detach(), noise=noise)
    log_prob, entropy = head.log_prob(outputs, action), head.entropy(outputs)
    assert log_prob.isfinite().all()
    assert entropy.isfinite().all()
    (log_prob + entropy).sum().backward()
    assert outputs.grad.isfinite().all()


@given(st.sampled_from(["categorical", "multi_categorical"]), st.integers(0, 1000), st.booleans())
def test_a_masked_action_is_never_chosen_and_its_gradients_are_finite(kind, seed, sampled):
    head = head_of(CASES[kind])
    sizes = [4] if kind == "categorical" else list(GRID.nvec)
    generator = torch.Generator().manual_seed(seed)
    groups = [torch.rand(30, n, generator=generator) < 0.4 for n in sizes]
    for group in groups:
        group[~group.any(dim=1), 0] = True
    mask = torch.cat(groups, dim=1)
    outputs = (20.0 * outputs_of(head, 30, seed=seed)).requires_grad_()
    action = head.act(outputs.detach(), mask, noise_of(head, 30, seed=seed) if sampled else None)
    for group, choice in zip(groups, action.reshape(30, -1).unbind(1), strict=True):
        assert group.gather(1, choice[:, None]).all()
    log_prob, entropy = head.log_prob(outputs, action, mask), head.entropy(outputs, mask)
    assert (entropy >= -1e-6).all()
    (log_prob + entropy).sum().backward()
    assert outputs.grad.isfinite().all()
    assert (outputs.grad[~mask] == 0).all()


def test_bounds_on_one_side_and_absurd_deviations_leave_everything_finite():
    head = head_of(Box((2,), "float32", (0.0, -INF), (INF, 3.0)))
    outputs = torch.tensor([[-1.0, 1.0, 1e4, -1e4], [1.0, 9.0, -1e4, 1e4]], requires_grad=True)
    noise = torch.tensor([[1.0, -2.0], [-1.0, 2.0]])
    action = head.act(outputs.detach(), noise=noise)
    # log deviations are kept in [-10, 5]
    expected = [[-1 + math.exp(5), 1 - 2 * math.exp(-10)], [1 - math.exp(-10), 3.0]]
    torch.testing.assert_close(action, torch.tensor(expected))
    log_prob, entropy = head.log_prob(outputs, action), head.entropy(outputs)
    (log_prob + entropy).sum().backward()
    for tensor in (log_prob, entropy, outputs.grad):
        assert tensor.isfinite().all()


def test_a_mean_far_outside_is_pulled_towards_the_bounds_by_a_useful_gradient():
    head = head_of(PENDULUM)
    outputs = torch.tensor([[40.0, -1.0]], requires_grad=True)
    action = head.act(outputs.detach())
    assert action.item() == 2.0
    head.log_prob(outputs, action).sum().backward()
    assert outputs.grad[0].tolist() == [0.0, 0.0]  # the whole mass is there already
    outputs.grad = None
    head.log_prob(outputs, torch.tensor([[-2.0]])).sum().backward()
    assert outputs.grad[0, 0].item() == pytest.approx(-41 * math.exp(2.0), rel=1e-3)  # -z / std of a far tail


# Shapes, devices and refusals


def test_leading_axes_of_any_number_are_taken(head):
    outputs, noise = outputs_of(head, 3, 4), noise_of(head, 3, 4)
    action = head.act(outputs, noise=noise)
    log_prob, entropy = head.log_prob(outputs, action), head.entropy(outputs)
    assert log_prob.shape == entropy.shape == (3, 4)
    one = head.act(outputs[1, 2], noise=noise[1, 2])
    assert torch.equal(one, action[1, 2])
    torch.testing.assert_close(head.log_prob(outputs[1, 2], one), log_prob[1, 2])
    none = head.act(outputs[:, :0], noise=noise[:, :0])
    assert none.shape == (3, 0, *action.shape[2:])
    assert head.log_prob(outputs[:, :0], none).shape == (3, 0)


def test_members_are_sampled_from_generators_of_their_own(head):
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    outputs = outputs_of(head, 1, 5).expand(3, 5, -1)
    together = head.sample(outputs, generators)
    alone = head.sample(outputs[1], [torch.Generator().manual_seed(1)])
    assert torch.equal(alone, together[1])
    assert not torch.equal(together[0], together[1])


def test_acting_compiles_in_one_piece_and_alike(head):
    outputs, noise = outputs_of(head, 4), noise_of(head, 4)
    compiled = torch.compile(head.act, fullgraph=True, backend="eager")
    assert torch.equal(compiled(outputs, None, noise), head.act(outputs, None, noise))
    assert torch.equal(compiled(outputs), head.act(outputs))


def test_a_head_has_nothing_to_save(head):
    assert head.state_dict() == {}
    assert list(head.parameters()) == []


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "squashed_gaussian"])
def test_a_mask_for_actions_that_take_none_is_refused(kind):
    head = head_of(CASES[kind], kind == "squashed_gaussian")
    outputs, mask = outputs_of(head, 2), torch.ones(2, head.width, dtype=torch.bool)
    action = head.act(outputs)
    for ask in (lambda: head.act(outputs, mask), lambda: head.log_prob(outputs, action, mask)):
        with pytest.raises(UsageError, match=r"^only Discrete and MultiDiscrete actions take a mask\.$"):
            ask()
    with pytest.raises(UsageError, match="take a mask"):
        head.entropy(outputs, mask)


@pytest.mark.parametrize(
    ("kind", "space", "message"),
    [
        ("q", PENDULUM, "the policy head 'q' is for Discrete actions, not Box((1,), float32)."),
        ("categorical", GRID, "the policy head 'categorical' is for Discrete actions, not MultiDiscrete("),
        ("multi_categorical", Discrete(2), "the policy head 'multi_categorical' is for MultiDiscrete actions, not "),
        ("bernoulli", Discrete(2), "the policy head 'bernoulli' is for MultiBinary actions, not Discrete(n=2"),
        ("gaussian", MultiBinary((2,)), "the policy head 'gaussian' is for Box actions, not MultiBinary("),
        ("squashed_gaussian", Discrete(2), "the policy head 'squashed_gaussian' is for Box actions, not Discrete("),
        ("gaussian", Box((1,), "int64", 0.0, 3.0), "actions Box((1,), int64) have no policy head: a Box of floats"),
        ("squashed_gaussian", Box((1,), "float32", 0.0, INF), "each element needs two finite bounds."),
        (
            "gaussian",
            Box((2,), "float32", (0.0, 1.0), (1.0, 1.0)),
            "in number 1: its lower bound, 1.0, is not below its upper one, 1.0.",
        ),
        (
            "gaussian",
            Box((2,), "float64", (0.0, 1.7e9), (1.0, 1.7e9 + 100)),  # float32 steps by 128 there
            "float32, in which networks compute, cannot tell the bounds 1700000000.0 and 1700000100.0 apart. Let the",
        ),
        ("gaussain", PENDULUM, "unknown policy head 'gaussain'. Did you mean 'gaussian'?"),
    ],
)
def test_a_head_that_does_not_fit_the_actions_is_refused_in_one_line(kind, space, message):
    with pytest.raises(UsageError) as caught:
        build_head({"kind": kind}, space)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", list(CASES))
def test_every_action_space_has_its_head(kind):
    assert stochastic_head_json(CASES[kind], kind == "squashed_gaussian") == {"kind": kind}
    assert isinstance(head_of(CASES[kind], kind == "squashed_gaussian"), head_class(kind))


def test_actions_without_a_head_are_refused():
    with pytest.raises(UsageError, match=r"^actions Dict\(.*\) have no policy head; Discrete, MultiDiscrete, Multi"):
        stochastic_head_json(Dict((("a", Discrete(2)),)), False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_head_on_a_gpu_answers_alike(head):
    outputs, noise = outputs_of(head, 4), noise_of(head, 4)
    action = head.act(outputs, noise=noise)
    log_prob, entropy = head.log_prob(outputs, action), head.entropy(outputs)
    head.cuda()
    torch.testing.assert_close(head.act(outputs.cuda(), noise=noise.cuda()).cpu(), action)
    torch.testing.assert_close(head.log_prob(outputs.cuda(), action.cuda()).cpu(), log_prob)
    torch.testing.assert_close(head.entropy(outputs.cuda()).cpu(), entropy)


LARGEST = float(np.finfo(np.float32).max)
FAR = [
    (0.0, 1_000_000.0, "float32"),
    (0.0, 999_999.0, "float32"),
    (-1e-6, 1e-6, "float32"),
    (-3.0, 5e7, "float64"),
    (1e6, 3e38, "float32"),
    (-60_000.0, 10.0, "float16"),
]


@pytest.mark.parametrize("kind", ["gaussian", "squashed_gaussian"])
@pytest.mark.parametrize(("low", "high", "dtype"), FAR)
def test_bounds_of_any_size_are_the_scale_of_actions_and_what_is_best_between_them_is_learned(kind, low, high, dtype):
    """A one-step bandit that pays -(share - 0.75)^2, share 0 at the lower bound and 1 at the upper one. By REINFORCE
    with the mean as its baseline, from a mean at 0.5 and a deviation of 0.25 shares (0.5 half ranges)."""
    head = build_head({"kind": kind}, Box((1,), dtype, low, high))
    middle = low / 2 + high / 2
    assert head.act(torch.zeros(2)).item() == pytest.approx(middle, rel=1e-6, abs=1e-12 * abs(high))
    outputs = torch.tensor([0.0, -0.69]).requires_grad_()
    optimizer = torch.optim.Adam([outputs], lr=0.03)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        noise = torch.randn(64, 1, generator=generator)
        rows = outputs.expand(64, 2)
        action = head.act(rows, noise=noise).detach()
        reward = -(((action.double()[:, 0] - low) / (high - low) - 0.75).float() ** 2)
        advantage = (reward - reward.mean()) / reward.std()
        loss = -(advantage * head.log_prob(rows, action)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    share = (head.to_env(head.act(outputs.detach())).double().item() - low) / (high - low)
    assert share == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize("bound", [LARGEST, INF, float(np.finfo(np.float64).max)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_number_of_a_dtype_is_not_a_bound(bound, dtype):
    space = Box((2,), dtype, (-bound, 0.0), (bound, 2_000_000.0))
    head = build_head({"kind": "gaussian"}, space)
    assert head.act(torch.tensor([0.5, 0.5, 0.0, 0.0])).tolist() == [0.5, 1_500_000.0]
    with pytest.raises(UsageError, match="each element needs two finite bounds"):
        build_head({"kind": "squashed_gaussian"}, space)
