"""Programs do what their functions do, and say why where they cannot.

Most tests run the traced graph as it is, without compiling it: the tracing is rlab's own work.
"""

import copy
import gc
import importlib
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.learning.compiler import why_not_compile
from rlab.learning.program import MOST_VERSIONS, Program
from rlab.learning.tracing import NotTraceable, _baddbmm

MISSING = why_not_compile(torch.device("cpu"))
compiles = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """Run graphs without compiling them; the list has all that were traced."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(importlib.import_module("rlab.learning.program"), "compiled", keep)
    return graphs


def traces(fn: Callable[..., Any], *arguments: Any) -> Any:
    return Program(fn, "fn")(*arguments)


class Learner:
    """A small network that learns with Adam, its parameters views of one tensor where `flat`."""

    def __init__(self, flat: bool, lr: float | Tensor = 1e-2) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.parameters = list(self.network.parameters())
        stepped = self.parameters
        if flat:
            joined = torch.cat([p.detach().reshape(-1) for p in self.parameters])
            parts = joined.split([p.numel() for p in self.parameters])
            for parameter, part in zip(self.parameters, parts, strict=True):
                parameter.data = part.view(parameter.shape)
            stepped = [nn.Parameter(joined)]
        for parameter in stepped:
            parameter.grad = torch.zeros_like(parameter)
        self.stepped, self.flat = stepped, flat
        # as large as the gradients: a step is proportional to them, and roundings of theirs are not magnified
        self.optimizer = torch.optim.Adam(stepped, lr=lr, eps=1.0, foreach=False, capturable=True)
        self.count = torch.zeros((), dtype=torch.int64)
        for parameter in stepped:  # the moments that the first step makes otherwise
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": torch.zeros(()), **moments}

    def update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = (self.network(batch["obs"]) - batch["target"]).square().mean()
        found = list(torch.autograd.grad(loss, self.parameters))
        if self.flat:
            found = [torch.cat([each.reshape(-1) for each in found])]
        for parameter, grad in zip(self.stepped, found, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(grad)
        self.optimizer.step()
        self.count += 1
        return {"loss": loss.detach(), "weights": self.parameters[0].detach()}

    def eager(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same outside a trace, where torch takes `capturable` on GPUs alone."""
        self.optimizer.param_groups[0]["capturable"] = False
        found = self.update(batch)
        self.optimizer.param_groups[0]["capturable"] = True
        return found


def batches(number: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return [{"obs": draw(16, 3), "target": draw(16, 1)} for _ in range(number)]


def check_against_eager(flat: bool, steps: int) -> Learner:
    """Both learn for some steps; every number is the same but for roundings, of which a step adds a few."""
    learner, eager = Learner(flat), Learner(flat)
    program = Program(learner.update, "update")
    for batch in batches(steps):
        found, wanted = program(batch), eager.eager(batch)
        torch.testing.assert_close(found, wanted, rtol=0.0, atol=steps * 1e-6)
    assert learner.count.item() == steps  # tracing did not count
    assert learner.optimizer.state[learner.stepped[0]]["step"].item() == steps
    for one, other in zip(learner.stepped, eager.stepped, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=steps * 1e-6)
    assert not torch.equal(learner.parameters[0], Learner(flat).parameters[0])
    return learner


@compiles
def test_a_compiled_update_learns_what_the_function_learns() -> None:
    learner = check_against_eager(flat=True, steps=50)
    program, batch = Program(learner.update, "update"), batches(1)[0]
    for _ in range(100):
        program(batch)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(10_000):
        program(batch)
    # in KiB. A result that were kept in every run, two tensors of 300 bytes and more each, would be 5 800.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2_000


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("flat", [True, False])
def test_a_traced_update_learns_what_the_function_learns(flat: bool) -> None:
    check_against_eager(flat, steps=5)


@compiles
def test_random_numbers_differ_from_run_to_run_and_are_those_of_eager_calls() -> None:
    inside, outside = (Draws([3, 4], "a use", "cpu", ahead=4) for _ in range(2))
    program = Program(lambda scale: inside.uniform(5) * scale, "noise")
    one = torch.ones(())
    runs = [program(one), program(one), inside.uniform(5), program(one)]
    assert all(torch.equal(run, outside.uniform(5)) for run in runs)
    assert not torch.equal(runs[0], runs[1])


@pytest.mark.usefixtures("interpreted")
def test_two_programs_see_what_the_other_one_wrote() -> None:
    state = torch.zeros(2)
    add, double = Program(lambda x: state.add_(x), "add"), Program(lambda: state.mul_(2.0), "double")
    add(torch.ones(2))
    assert double().tolist() == [2.0, 2.0]
    assert add(torch.ones(2)).tolist() == [3.0, 3.0]
    assert state.tolist() == [3.0, 3.0]


@pytest.mark.usefixtures("interpreted")
def test_results_are_not_changed_by_the_next_run() -> None:
    state, argument = torch.zeros(2, 2), torch.ones(2)
    program = Program(lambda x: (state.add_(1.0), state, state[0], x, x.view(2, 1)), "fn")
    first = program(argument)
    kept = [result.clone() for result in first]
    program(argument)
    argument.fill_(7.0)
    assert all(torch.equal(one, other) for one, other in zip(first, kept, strict=True))


@pytest.mark.usefixtures("interpreted")
def test_views_of_one_storage_see_each_others_changes() -> None:
    def make() -> tuple[Tensor, Callable[[], Tensor]]:
        row = torch.arange(6.0)
        table, middle, turned, bits = row.view(2, 3), row[2:5], row.view(2, 3).t(), torch.zeros(0, 3)

        def fn() -> Tensor:
            middle[1:].add_(1.0)  # 0 1 2 4 5 5
            table.mul_(2.0)  # 0 2 4 8 10 10
            turned[0].sub_(1.0)  # -1 2 4 7 10 10
            bits.add_(1.0)
            return middle + bits.sum()

        return row, fn

    row, fn = make()
    assert traces(fn).tolist() == [4.0, 7.0, 10.0]
    assert row.tolist() == [-1.0, 2.0, 4.0, 7.0, 10.0, 10.0]
    row, fn = make()
    assert fn().tolist() == [4.0, 7.0, 10.0]


def test_what_writes_to_a_storage_in_another_shape_is_a_view_which_every_torch_follows(
    interpreted: list[torch.fx.GraphModule],
) -> None:
    weight = torch.zeros(2, 3)
    flat = weight.view(6)
    assert traces(lambda: (flat.add_(2.0), weight.sum())[1]).item() == 12.0
    assert weight.tolist() == [[2.0] * 3] * 2
    assert torch.ops.aten.as_strided.default not in {node.target for node in interpreted[0].graph.nodes}


def test_random_numbers_come_of_words_and_no_index_which_a_gpu_multiplies_in_32_bits(
    interpreted: list[torch.fx.GraphModule],
) -> None:
    draws = Draws([1, 2], "actions", "cpu")
    traces(lambda: draws.uniform(9))
    (index,) = [node for node in interpreted[0].graph.nodes if "arange" in node.name]
    assert [user.target for user in index.users] == [torch.ops.aten.bitwise_and.Scalar]


def test_on_a_gpu_a_bias_is_added_by_the_compiler(gpu: Any) -> None:
    a, b, bias = torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.randn(2, 1, 5)
    assert _baddbmm(bias, a, b) is NotImplemented
    expected = torch.baddbmm(bias, a, b)
    with gpu:
        found = _baddbmm(*(tensor.to("cuda") for tensor in (bias, a, b))).cpu()
        assert _baddbmm(bias.to("cuda"), a, b, beta=0.5) is NotImplemented
    torch.testing.assert_close(found, expected, rtol=5 * 1.2e-7, atol=1e-6)  # five roundings each


@pytest.mark.usefixtures("interpreted")
def test_a_storage_is_read_under_two_dtypes_and_not_changed() -> None:
    numbers = torch.ones(2)
    bits = numbers.view(torch.int32)
    assert traces(lambda: numbers.double() + bits).tolist() == [1.0 + 0x3F800000] * 2
    with pytest.raises(NotTraceable, match="it changes a storage that tensors of two dtypes share"):
        traces(lambda: numbers.add_(1.0) + bits)
    assert numbers.tolist() == [1.0, 1.0]


@pytest.mark.usefixtures("interpreted")
def test_memory_that_is_changed_has_one_name() -> None:
    state = torch.zeros(4)
    array = np.zeros(4, np.float32)
    one, other = torch.from_numpy(array), torch.from_numpy(array[1:])
    message = "it changes memory that it also has under another name"
    for fn, arguments in (
        (lambda x: state.add_(1.0) + x, [state[:2].expand(2, 2)[0, :1]]),
        (lambda x, y: x.add_(1.0) + y, [state, state]),
        (lambda: (one.add_(1.0), other + 1.0), []),
    ):
        with pytest.raises(NotTraceable, match=message):
            traces(fn, *arguments)
    assert traces(lambda x: state + x, state).tolist() == [0.0] * 4  # read alone


@pytest.mark.usefixtures("interpreted")
def test_tensors_made_of_python_numbers_are_new_in_every_run(interpreted: list[torch.fx.GraphModule]) -> None:
    def fn(x: Tensor) -> Tensor:
        made = torch.tensor([1.0, 2.0], dtype=torch.float64).to(torch.float32).add_(x)
        return made + torch.tensor(0.5)

    program = Program(fn, "fn")
    assert [program(torch.ones(2)).tolist() for _ in range(2)] == [[2.5, 3.5]] * 2
    code = interpreted[0].code
    assert (code.count("aten.full"), code.count("lift_fresh_copy"), code.count("_to_copy")) == (1, 0, 0)


@pytest.mark.usefixtures("interpreted")
def test_an_argument_of_another_shape_is_another_version_and_too_many_are_refused() -> None:
    program = Program(lambda x, n: x.sum() * n, "fn")
    assert [program(torch.ones(size), 2).item() for size in (1, 3)] == [2.0, 6.0]
    for n in range(3, 1 + MOST_VERSIONS):
        program(torch.ones(1), n)
    with pytest.raises(NotTraceable, match=rf"^fn: its arguments have more than {MOST_VERSIONS} structures"):
        program(torch.ones(1), 1 + MOST_VERSIONS)
    with pytest.raises(NotTraceable, match=r"^fn: an argument of type ndarray is not a tensor"):
        program(np.ones(1), 1)


@pytest.mark.usefixtures("interpreted")
def test_a_program_goes_on_with_the_state_that_an_optimizer_loaded() -> None:
    learner, eager = Learner(flat=True), Learner(flat=True)
    program = Program(learner.update, "update")
    early, late, after = batches(3)
    program(early)
    eager.eager(early)
    saved = copy.deepcopy(eager.optimizer.state_dict())
    program(late)  # and then the moments are taken back
    learner.optimizer.load_state_dict(saved)
    learner.optimizer.param_groups[0]["capturable"] = True
    learner.stepped[0].data.copy_(eager.stepped[0])
    torch.testing.assert_close(program(after), eager.eager(after), rtol=0.0, atol=1e-5)
    assert learner.optimizer.state[learner.stepped[0]]["step"].item() == 2


@pytest.mark.usefixtures("interpreted")
def test_a_learning_rate_is_an_argument() -> None:
    rate = torch.tensor(0.0)
    learner = Learner(flat=True, lr=rate)

    def update(batch: dict[str, Tensor], lr: Tensor) -> Tensor:
        rate.copy_(lr)
        return learner.update(batch)["loss"]

    program, batch, before = Program(update, "update"), batches(1)[0], learner.stepped[0].detach().clone()
    program(batch, torch.tensor(0.0))
    assert torch.equal(learner.stepped[0], before)
    program(batch, torch.tensor(0.1))
    assert not torch.equal(learner.stepped[0], before)


@pytest.mark.usefixtures("interpreted")
def test_a_program_in_a_program_is_a_part_of_it() -> None:
    state = torch.zeros(1)
    inner = Program(lambda: state.add_(1.0), "inner")
    outer = Program(lambda: inner() + inner(), "outer")
    assert outer().item() == 4.0  # both results are the state, which is 2 at the end
    assert state.item() == 2.0


VALUE, VALUES, ARRAY = torch.tensor(2.0), torch.arange(3.0), np.ones(3, np.float32)
REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "item": (lambda x: x + VALUE.item(), "item reads a tensor on the host"),
    "branch": (lambda x: x if x.sum() > 0 else -x, "item reads a tensor on the host"),
    "index": (lambda x: VALUES[: VALUE.long()] + x[:2], "item reads a tensor on the host"),
    "select": (lambda x: x[VALUE.long()], "item reads a tensor on the host"),
    "scalar": (lambda x: x.add(VALUES, alpha=VALUE), "item reads a tensor on the host"),
    "tolist": (lambda x: x + VALUES.tolist()[1], "Tensor.tolist reads a tensor on the host"),
    "numpy": (lambda x: x + float(VALUES.numpy()[1]), "Tensor.numpy reads a tensor on the host"),
    "equal": (lambda x: x + float(torch.equal(x, VALUES)), "equal reads a tensor on the host"),
    "mask": (lambda x: x[x > 0], "index gives a shape that depends on data"),
    "from_numpy": (lambda x: x + torch.from_numpy(ARRAY), "made of numbers of NumPy"),
    "as_tensor": (lambda x: x + torch.as_tensor(ARRAY), "as_tensor takes numbers of NumPy"),
    "list": (lambda x: x + torch.tensor(list(ARRAY)), "tensor takes numbers of NumPy"),
    "rand": (lambda x: x + torch.rand(3), "rand draws from torch's own generator"),
    "dropout": (lambda x: nn.functional.dropout(x), "bernoulli_ draws from torch's own generator"),
    "multinomial": (lambda x: torch.multinomial(x, 1), "multinomial draws from torch's own generator"),
    "host numbers": (lambda x: x + np.random.rand(), "the global generators of the host"),
    "an error": (lambda x: x + torch.ones(4), "RuntimeError: .*broadcast"),
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("what", REFUSED)
def test_what_a_graph_cannot_repeat_is_refused_with_the_reason_and_the_place(what: str) -> None:
    fn, message = REFUSED[what]
    with pytest.raises(NotTraceable, match=message) as error:
        Program(fn, "act")(torch.ones(3))
    assert str(error.value).startswith("act: ")
    assert "\n" not in str(error.value)
    assert "test_program.py:" in str(error.value) or what == "host numbers"
    assert not torch.compiler.is_compiling()


@pytest.mark.usefixtures("interpreted")
def test_attention_without_dropout_is_not_random() -> None:
    x = torch.ones(1, 1, 3, 1)
    attend = nn.functional.scaled_dot_product_attention
    assert torch.equal(traces(lambda x: attend(x, x, x), x), x)
    with pytest.raises(NotTraceable, match="draws from torch's own generator"):
        traces(lambda x: attend(x, x, x, dropout_p=0.5), x)


@pytest.mark.usefixtures("interpreted")
def test_python_state_is_guarded_and_put_back() -> None:
    learner = Learner(flat=False)
    learner.optimizer.state.clear()  # the first step would make the moments
    with pytest.raises(NotTraceable, match=r"^update: Learner.optimizer.state\[.*is replaced by a tensor that exists"):
        Program(learner.update, "update")(batches(1)[0])
    assert len(learner.optimizer.state) == 0
    assert learner.parameters[0].grad is not None
    learner.eager(batches(1)[0])  # goes on as if nothing had happened


@pytest.mark.usefixtures("interpreted")
def test_a_gradient_that_a_trace_would_leave_behind_is_named() -> None:
    network = nn.Linear(1, 1)

    def fn(x: Tensor) -> None:
        network(x).sum().backward()

    with pytest.raises(NotTraceable, match=r"network._parameters.(weight|bias).grad is replaced"):
        traces(fn, torch.ones(1, 1))
    assert network.weight.grad is None


@pytest.mark.usefixtures("interpreted")
def test_a_program_may_change_one_tensor_any_number_of_times() -> None:
    state = torch.zeros(2)

    def fn() -> Tensor:
        for _ in range(1100):  # more than Python's stack has room for
            state.add_(1.0)
        return state[0]

    assert [traces(fn).item(), state[1].item()] == [1100.0, 1100.0]


def test_why_something_was_not_compiled_is_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("error: no such vector\n" + "note: of many\n" * 10**5)

    monkeypatch.setattr(importlib.import_module("rlab.learning.program"), "compiled", fail)
    with pytest.raises(NotTraceable, match=r"^fn: it was traced, and not compiled: RuntimeError: error: no") as caught:
        traces(lambda x: x + 1, torch.ones(2))
    assert len(str(caught.value)) < 300
