"""A graph as one C header: constant arrays and functions, no allocation, no library but libm, with a test inside."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from string import Template

import numpy as np

from rlab.compression.export.c_kernels import render, unpacking_floats
from rlab.compression.export.c_layout import C_TYPES, Layout, array_text, double_text, float_text
from rlab.compression.export.graph import ACTION, NEXT_STATE, OBS, OUTPUTS, STATE, Graph, Operation
from rlab.errors import UsageError

METADATA = "rlab-metadata:"  # the line of the header's comment that holds the JSON

HEADER = """/*
 * A policy of rlab: observations in, greedy actions out. C99; link with -lm.
 *
 *   int ${p}_act(const ${p}_obs_t *obs, ${given}${p}_action_t *action);
 *       ${P}_OBS_SIZE numbers in, ${P}_ACTION_SIZE out. Gives 0, or 1 where an output of the network is not a number.
 *   int ${p}_decide(const ${p}_obs_t *obs, ${given}${p}_action_t *action, float *outputs);
 *       The same, with the ${P}_OUTPUTS outputs of the network.
${about_state} *   int ${p}_selftest(void);
 *       Gives 0 where this compiler and this machine compute what was exported, else the number of the row that is off.
 *
 * They allocate nothing, keep no state and need ${P}_STACK_BYTES bytes of stack.
 *
 * ${metadata_key} ${metadata}
 */
#ifndef ${P}_POLICY_H
#define ${P}_POLICY_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define ${P}_OBS_SIZE ${obs_size}
#define ${P}_ACTION_SIZE ${action_size}
#define ${P}_OUTPUTS ${outputs}
${define_state}#define ${P}_STACK_BYTES ${stack}

typedef ${obs_type} ${p}_obs_t;
typedef ${action_type} ${p}_action_t;

${constants}${kernels}
static inline int ${p}_decide(const ${p}_obs_t *obs, ${given}${p}_action_t *action, float *outputs) {
  float work[${work}];
  (void)work;
${next_state}${body}
${keep_state}  for (int i = 0; i < ${outputs}; ++i)
    if (outputs[i] != outputs[i]) return 1;
  return 0;
}

static inline int ${p}_act(const ${p}_obs_t *obs, ${given}${p}_action_t *action) {
  float outputs[${outputs}];
  return ${p}_decide(obs, ${handed}action, outputs);
}

static inline int ${p}_selftest(void) {
${test_arrays}
${test_state}  for (int row = 0; row < ${test_rows}; ++row) {
    ${p}_action_t action[${action_size}];
    float outputs[${outputs}];
    if (${p}_decide(test_obs + row * ${obs_size}, ${handed}action, outputs)) return row + 1;
    for (int i = 0; i < ${outputs}; ++i)
      if (!(fabsf(outputs[i] - test_outputs[row * ${outputs} + i]) <= ${tolerance})) return row + 1;
    for (int i = 0; i < ${action_size}; ++i)
      if (!(fabs((double)action[i] - (double)test_action[row * ${action_size} + i]) <= ${action_tolerance}))
        return row + 1;
  }
  return 0;
}

#endif
"""


@dataclass(frozen=True, eq=False)
class Examples:
    """What the exported member answers, for a test inside the file; with memory one after another, from zeros on."""

    obs: np.ndarray  # [K, *obs]
    action: np.ndarray  # [K, *action]
    outputs: np.ndarray  # [K, width]
    tolerance: float  # how far an output may be off
    action_tolerance: float  # likewise an element of an action; integers must be equal


def write_c(graph: Graph, metadata: str, examples: Examples, prefix: str = "rlab") -> bytes:
    """The content of the header; all names in it begin with `prefix`. `metadata` is JSON.

    Raises:
        UsageError: the prefix is not a C identifier, or C99 lacks the type of the observations or actions.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", prefix):
        raise UsageError(f"prefix {prefix!r} is not a C identifier: letters, digits and _, no digit first.")
    for name in (OBS, ACTION):
        if graph.values[name].dtype not in C_TYPES:
            what = "observations" if name == OBS else "actions"
            raise UsageError(f"format c cannot express {graph.values[name].dtype} {what}; onnx and numpy can.")
    layout = Layout(graph, prefix)
    body = "".join(STATEMENTS[op.kind](layout, op) for op in graph.operations)
    obs, action, outputs = (graph.values[name] for name in (OBS, ACTION, OUTPUTS))
    size = graph.values[STATE].size if STATE in graph.values else 0
    words = _state_words(prefix, size) | {
        "p": prefix,
        "P": prefix.upper(),
        "metadata_key": METADATA,
        "metadata": metadata.replace("*", "\\u002a"),  # the same to JSON, and no comment begins or ends
        "obs_size": obs.size,
        "action_size": action.size,
        "outputs": outputs.size,
        "work": max(layout.memory.most, 1),
        "stack": 4 * (layout.memory.most + outputs.size + size + unpacking_floats(layout.kernels)),
        "obs_type": C_TYPES[obs.dtype],
        "action_type": C_TYPES[action.dtype],
        "constants": "".join(map(layout.definition, graph.constants)),
        "kernels": render(layout.kernels, prefix),
        "body": body.rstrip("\n"),
        "test_arrays": _test_arrays(graph, prefix, examples),
        "test_rows": len(examples.obs),
        "tolerance": float_text(examples.tolerance),
        "action_tolerance": double_text(examples.action_tolerance),
    }
    return Template(HEADER).substitute(words).encode()


def _state_words(prefix: str, size: int) -> dict[str, str]:
    """What a header with memory says besides; without it nothing."""
    name = f"{prefix.upper()}_STATE_SIZE"
    words = {
        "given": "float *state, ",
        "handed": "state, ",
        "about_state": f" *   state: {name} numbers, zeros where an episode begins, then what the call before left.\n",
        "define_state": f"#define {name} {size}\n",
        "next_state": f"  float {NEXT_STATE}[{size}];\n",
        "keep_state": f"  memcpy(state, {NEXT_STATE}, sizeof {NEXT_STATE});\n",
        "test_state": f"  float state[{size}] = {{0}};\n",
    }
    return words if size else dict.fromkeys(words, "")


def _test_arrays(graph: Graph, prefix: str, examples: Examples) -> str:
    obs, action = (np.dtype(graph.values[name].dtype) for name in (OBS, ACTION))
    arrays = [
        array_text("test_obs", f"{prefix}_obs_t", np.asarray(examples.obs, obs)),
        array_text("test_action", f"{prefix}_action_t", np.asarray(examples.action, action)),
        array_text("test_outputs", "float", np.asarray(examples.outputs, np.float32)),
    ]
    return "".join(f"  {text}" for text in arrays).rstrip("\n")


def _elementwise(expression: str) -> Callable[[Layout, Operation], str]:
    """`y[i] = expression` of `x`, the i-th element of the input, and `alpha`."""

    def write(layout: Layout, op: Operation) -> str:
        y, x = layout.start(op), f"{layout.place(op.inputs[0])}[i]"
        text = Template(expression).substitute(x=x, alpha=float_text(op.settings.get("alpha", 0.0)))
        return _loop(layout.size(op.output), f"{y}[i] = {text};")

    return write


def _binary(sign: str) -> Callable[[Layout, Operation], str]:
    """`y[i] = x[i] sign z[i]`, where z may be one number."""

    def write(layout: Layout, op: Operation) -> str:
        y, (x, z) = layout.start(op), op.inputs
        index = "0" if layout.size(z) == 1 else "i"
        return _loop(layout.size(op.output), f"{y}[i] = {layout.place(x)}[i] {sign} {layout.place(z)}[{index}];")

    return write


def _loop(count: int, statement: str) -> str:
    return f"  for (int i = 0; i < {count}; ++i) {statement}\n"


def _cast(layout: Layout, op: Operation) -> str:
    ctype, y = C_TYPES[layout.graph.values[op.output].dtype], layout.start(op)
    return _loop(layout.size(op.output), f"{y}[i] = ({ctype}){layout.place(op.inputs[0])}[i];")


def _view(layout: Layout, op: Operation) -> str:
    return layout.view(op, op.settings.get("first", 0))


def _channels_first(layout: Layout, op: Operation) -> str:
    (channels, height, width), y, x = layout.graph.values[op.output].shape, layout.start(op), op.inputs[0]
    where = f"{layout.place(x)}[(i % {height * width}) * {channels} + i / {height * width}]"
    return _loop(layout.size(op.output), f"{y}[i] = {where};")


def _one_hot(layout: Layout, op: Operation) -> str:
    y, (x, element, value) = layout.start(op), map(layout.place, op.inputs)
    test = f"{x}[{element}[i]] == ({layout.prefix}_obs_t){value}[i]"
    return _loop(layout.size(op.output), f"{y}[i] = {test} ? 1.0f : 0.0f;")


def _centre(layout: Layout, op: Operation) -> str:
    y, (x, mean) = layout.start(op), map(layout.place, op.inputs)
    return _loop(layout.size(op.output), f"{y}[i] = (float)((double){x}[i] - {mean}[i]);")


def _concat(layout: Layout, op: Operation) -> str:
    y, text, offset = layout.start(op), "", 0
    for name in op.inputs:
        text += _loop(layout.size(name), f"{y}[{offset} + i] = {layout.place(name)}[i];")
        offset += layout.size(name)
    return text


def _clip(layout: Layout, op: Operation) -> str:
    y, (x, low, high) = layout.start(op), map(layout.place, op.inputs)
    i = "0" if layout.size(op.inputs[1]) == 1 else "i"
    value = f"{x}[i] < {low}[{i}] ? {low}[{i}] : {x}[i] > {high}[{i}] ? {high}[{i}] : {x}[i]"
    return _loop(layout.size(op.output), f"{y}[i] = {value};")


def _mean(layout: Layout, op: Operation) -> str:
    x, n = op.inputs[0], layout.size(op.inputs[0])
    return f"  {layout.start(op)}[0] = {layout.kernel('sum')}({layout.place(x)}, {n}) / {float_text(n)};\n"


def _softmax(layout: Layout, op: Operation) -> str:
    y, x, n, size = layout.start(op), layout.place(op.inputs[0]), layout.size(op.output), op.settings["size"]
    return f"  for (int i = 0; i < {n}; i += {size}) {layout.kernel('softmax')}({x} + i, {size}, {y} + i);\n"


def _linear(layout: Layout, op: Operation) -> str:
    y, (x, weight, bias) = layout.start(op), op.inputs
    outputs, inputs = layout.graph.constants[weight].values.shape
    kernel, weights = layout.weight_kernel("linear", weight), layout.weights(weight)
    rows, more = _rows(layout, op, inputs, outputs)
    where = f"{layout.place(x)}{more[0]}, {weights}, {layout.place(bias)}, {inputs}, {outputs}, {y}{more[1]}"
    return f"  {rows}{kernel}({where});\n"


def _conv2d(layout: Layout, op: Operation) -> str:
    y, (x, weight, bias) = layout.start(op), op.inputs
    constant, (channels, height, width) = layout.graph.constants[weight], layout.graph.values[x].shape
    out, _, kernel, _ = constant.values.shape
    patch = layout.scratch(f"{op.output}_patch", channels * kernel * kernel)
    pixel = layout.scratch(f"{op.output}_pixel", out)
    function, weights = layout.weight_kernel("conv2d", weight), layout.weights(weight)
    sizes = f"{channels}, {height}, {width}, {kernel}, {op.settings['stride']}, {out}"
    return f"  {function}({layout.place(x)}, {weights}, {layout.place(bias)}, {sizes}, {patch}, {pixel}, {y});\n"


def _layer_norm(layout: Layout, op: Operation) -> str:
    y, (x, weight, bias) = layout.start(op), map(layout.place, op.inputs)
    epsilon, n = float_text(op.settings["epsilon"]), layout.size(op.inputs[1])
    rows, more = _rows(layout, op, n, n)
    return f"  {rows}{layout.kernel('layer_norm')}({x}{more[0]}, {weight}, {bias}, {epsilon}, {n}, {y}{more[1]});\n"


def _rows(layout: Layout, op: Operation, inputs: int, outputs: int) -> tuple[str, tuple[str, str]]:
    """A loop over the rows of a matrix and what it adds to both pointers; nothing for a vector."""
    shape = layout.graph.values[op.output].shape
    if len(shape) == 1:
        return "", ("", "")
    return f"for (int r = 0; r < {shape[0]}; ++r) ", (f" + r * {inputs}", f" + r * {outputs}")


def _attend(layout: Layout, op: Operation) -> str:
    (window, features), y = layout.graph.values[op.inputs[1]].shape, layout.start(op)
    share, places = layout.scratch(f"{op.output}_share", window), ", ".join(map(layout.place, op.inputs))
    return f"  {layout.kernel('attend')}({places}, {window}, {features}, {op.settings['heads']}, {share}, {y});\n"


def _round_static(layout: Layout, op: Operation) -> str:
    y, (x, scale, zero) = layout.start(op), map(layout.place, op.inputs)
    return f"  {layout.kernel('round')}({x}, {scale}[0], {zero}[0], {layout.size(op.output)}, {y});\n"


def _round_dynamic(layout: Layout, op: Operation) -> str:
    y, x = layout.start(op), layout.place(op.inputs[0])
    return f"  {layout.kernel('round_dynamic')}({x}, {layout.size(op.output)}, {y});\n"


def _choose(layout: Layout, op: Operation) -> str:
    y, x, text, offset = layout.start(op), layout.place(op.inputs[0]), "", 0
    mask = layout.place(op.inputs[1]) if len(op.inputs) == 2 else None
    for i, size in enumerate(op.settings["sizes"]):
        allowed = f"{mask} + {offset}" if mask else f"(const {layout.prefix}_obs_t *)0"
        text += f"  {y}[{i}] = {layout.kernel('choose')}({x} + {offset}, {allowed}, {size});\n"
        offset += size
    return text


STATEMENTS: dict[str, Callable[[Layout, Operation], str]] = {
    "cast": _cast,
    "reshape": _view,
    "slice": _view,
    "channels_first": _channels_first,
    "one_hot": _one_hot,
    "centre": _centre,
    "concat": _concat,
    "append": _concat,
    "add": _binary("+"),
    "subtract": _binary("-"),
    "multiply": _binary("*"),
    "divide": _binary("/"),
    "clip": _clip,
    "relu": _elementwise("${x} < 0.0f ? 0.0f : ${x}"),  # this way round a NaN stays one
    "tanh": _elementwise("tanhf(${x})"),
    "sigmoid": _elementwise("1.0f / (1.0f + expf(-${x}))"),
    "elu": _elementwise("${x} > 0.0f ? ${x} : ${alpha} * expm1f(${x})"),
    "gelu": _elementwise("0.5f * ${x} * (1.0f + erff(${x} * 0.707106781f))"),
    "silu": _elementwise("${x} / (1.0f + expf(-${x}))"),
    "leaky_relu": _elementwise("${x} > 0.0f ? ${x} : ${alpha} * ${x}"),
    "mean": _mean,
    "softmax": _softmax,
    "linear": _linear,
    "conv2d": _conv2d,
    "layer_norm": _layer_norm,
    "attend": _attend,
    "round_static": _round_static,
    "round_dynamic": _round_dynamic,
    "choose": _choose,
    "positive": _elementwise("${x} > 0.0f ? 1 : 0"),
}
