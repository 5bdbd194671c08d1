"""The C functions that an exported header needs: those of its operations, with `${p}` for the header's prefix.

C99, float32 arithmetic. Long sums are taken in parts of `CHUNK` numbers, so that rounding errors stay small.
Sparse weights save memory and no time: looking at each bit takes longer than multiplying by 0 (2.9 against 1.2 us for
4-64-64-2 with 80 % zeros in float, gcc -O3, one x86 core).
"""

from collections.abc import Iterable
from string import Template

import numpy as np

from rlab.compression.export.graph import INTEGER_BITS

LANES = 16  # sums that grow side by side: as many as gcc makes four SSE registers of, or one of AVX-512
CHUNK = 32  # numbers that each of them adds up before it joins the total

LINEAR = """
static inline void ${p}_linear_${kind}(const float *x, const ${type} *w, const float *scale, const float *bias,
                                       int in, int out, float *y) {
  for (int j = 0; j < out; ++j) {
    float total = 0.0f;
    for (int i = 0; i < in; i += ${lanes} * ${chunk}) {
      const int n = in - i < ${lanes} * ${chunk} ? in - i : ${lanes} * ${chunk}, whole = n / ${lanes} * ${lanes};
      ${begin}
      float lane[${lanes}] = {0}, sum = 0.0f;
      for (int s = 0; s < whole; s += ${lanes})
        for (int k = 0; k < ${lanes}; ++k) lane[k] += x[i + s + k] * ${lane_weight};
      for (int s = whole; s < n; ++s) sum += x[i + s] * ${rest_weight};
      for (int k = 0; whole && k < ${lanes}; ++k) sum += lane[k];
      total += sum;
    }
    y[j] = total${scaled} + bias[j];
  }
  (void)scale;
}
"""

SPARSE_LINEAR = """
/* Of the weights, w holds those that are not 0; bit k of the mask says whether weight k is one of them. An input
 * without such a weight changes nothing, not even NaN. */
static inline void ${p}_sparse_linear_${kind}(const float *x, const uint8_t *mask, const ${type} *w,
                                              const float *scale, const float *bias, int in, int out, float *y) {
  int k = 0, e = 0;
  for (int j = 0; j < out; ++j) {
    float total = 0.0f;
    for (int i = 0; i < in; i += ${chunk}) {
      float sum = 0.0f;
      for (int s = i; s < in && s < i + ${chunk}; ++s, ++k)
        if (mask[k / 8] >> k % 8 & 1) {
          sum += x[s] * ${value};
          ++e;
        }
      total += sum;
    }
    y[j] = total${scaled} + bias[j];
  }
  (void)scale;
}
"""

CONV2D = """
static inline void ${p}_${sparse}conv2d_${kind}(const float *x, ${mask_type}const ${type} *w, const float *scale,
                                       const float *bias, int channels, int height, int width, int kernel, int stride,
                                       int out, float *patch, float *pixel, float *y) {
  const int rows = (height - kernel) / stride + 1, columns = (width - kernel) / stride + 1;
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) {
      float *to = patch;
      for (int i = 0; i < channels; ++i)
        for (int a = 0; a < kernel; ++a)
          for (int b = 0; b < kernel; ++b) *to++ = x[(i * height + r * stride + a) * width + c * stride + b];
      ${p}_${sparse}linear_${kind}(patch, ${mask}w, scale, bias, channels * kernel * kernel, out, pixel);
      for (int o = 0; o < out; ++o) y[(o * rows + r) * columns + c] = pixel[o];
    }
}
"""

# kind of weights -> (C type, how the element ${e} is read)
WEIGHTS: dict[str, tuple[str, str]] = {
    "float32": ("float", "w[${e}]"),
    "float16": ("uint16_t", "${p}_float16(w[${e}])"),
    "bfloat16": ("uint16_t", "${p}_bfloat16(w[${e}])"),
    "int8": ("int8_t", "(float)w[${e}]"),
    "int4": ("uint8_t", "row[${e}]"),
    "int2": ("uint8_t", "row[${e}]"),
}
# Of sparse weights, of which one is read at a time: how the element e is read where it is not so.
SPARSE_VALUES = {
    "int4": "(float)(((w[e / 2] >> 4 * (e % 2) & 15) ^ 8) - 8)",
    "int2": "(float)(((w[e / 4] >> 2 * (e % 4) & 3) ^ 2) - 2)",
}
SPARSE = "sparse_"  # what the names of their kernels begin with

KERNELS: dict[str, str] = {
    "float16": """
static inline float ${p}_float16(uint16_t h) {
  const uint32_t bits = (uint32_t)(h & 0x8000u) << 16 | (uint32_t)(h & 0x7fffu) << 13;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f * 5.19229686e33f; /* 2^112, the difference of the two exponents' offsets */
}
""",
    "bfloat16": """
static inline float ${p}_bfloat16(uint16_t h) {
  const uint32_t bits = (uint32_t)h << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}
""",
    "int4": """
static inline void ${p}_int4(const uint8_t *w, int bytes, float *row) {
  for (int i = 0; i < bytes; ++i)
    for (int k = 0; k < 2; ++k) row[2 * i + k] = (float)(((w[i] >> 4 * k & 15) ^ 8) - 8);
}
""",
    "int2": """
static inline void ${p}_int2(const uint8_t *w, int bytes, float *row) {
  for (int i = 0; i < bytes; ++i)
    for (int k = 0; k < 4; ++k) row[4 * i + k] = (float)(((w[i] >> 2 * k & 3) ^ 2) - 2);
}
""",
    "sum": """
static inline float ${p}_sum(const float *x, int n) {
  float sum = 0.0f;
  for (int i = 0; i < n; i += ${chunk}) {
    float part = 0.0f;
    for (int s = i; s < n && s < i + ${chunk}; ++s) part += x[s];
    sum += part;
  }
  return sum;
}
""",
    "softmax": """
static inline void ${p}_softmax(const float *x, int n, float *y) {
  float most = x[0];
  for (int i = 1; i < n; ++i) most = x[i] > most ? x[i] : most;
  for (int i = 0; i < n; ++i) y[i] = expf(x[i] - most);
  const float sum = ${p}_sum(y, n);
  for (int i = 0; i < n; ++i) y[i] /= sum;
}
""",
    "layer_norm": """
static inline void ${p}_layer_norm(const float *x, const float *weight, const float *bias, float epsilon, int n,
                                  float *y) {
  const float mean = ${p}_sum(x, n) / (float)n;
  for (int i = 0; i < n; ++i) y[i] = (x[i] - mean) * (x[i] - mean);
  const float deviation = sqrtf(${p}_sum(y, n) / (float)n + epsilon);
  for (int i = 0; i < n; ++i) y[i] = (x[i] - mean) / deviation * weight[i] + bias[i];
}
""",
    "round": """
static inline void ${p}_round(const float *x, float scale, float zero, int n, float *y) {
  for (int i = 0; i < n; ++i) {
    const float q = rintf(x[i] / scale) + zero;
    y[i] = ((q < 0.0f ? 0.0f : q > 255.0f ? 255.0f : q) - zero) * scale;
  }
}
""",
    "round_dynamic": """
static inline void ${p}_round_dynamic(const float *x, int n, float *y) {
  float low = 0.0f, high = 0.0f, zero;
  for (int i = 0; i < n; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  const float scale = high > low ? (high - low) / 255.0f : 1.0f;
  zero = -low / scale;
  ${p}_round(x, scale, rintf(zero < 0.0f ? 0.0f : zero > 255.0f ? 255.0f : zero), n, y);
}
""",
    "attend": """
/* Values mixed by the softmax of how well their keys fit the query, head by head; those not seen do not count. */
static inline void ${p}_attend(const float *query, const float *keys, const float *values, const float *seen,
                               int window, int features, int heads, float *share, float *y) {
  const int width = features / heads;
  for (int h = 0; h < features; h += width) {
    float most = -1e30f, total = 0.0f;
    for (int w = 0; w < window; ++w) {
      float sum = 0.0f;
      for (int i = h; i < h + width; ++i) sum += query[i] * keys[w * features + i];
      share[w] = seen[w] != 0.0f ? sum / sqrtf((float)width) : -1e30f;
      most = share[w] > most ? share[w] : most;
    }
    for (int w = 0; w < window; ++w) total += share[w] = expf(share[w] - most);
    for (int i = h; i < h + width; ++i) {
      y[i] = 0.0f;
      for (int w = 0; w < window; ++w) y[i] += share[w] / total * values[w * features + i];
    }
  }
}
""",
    "choose": """
static inline int64_t ${p}_choose(const float *x, const ${p}_obs_t *mask, int n) {
  int any = 0, best = -1;
  for (int i = 0; i < n; ++i) any |= !mask || mask[i] != 0;
  for (int i = 0; i < n; ++i)
    if ((!mask || !any || mask[i] != 0) && (best < 0 || x[i] > x[best])) best = i;
  return best;
}
""",
}
NEEDS = {"softmax": ("sum",), "layer_norm": ("sum",), "round_dynamic": ("round",)}  # kernels that call others


def render(names: Iterable[str], prefix: str) -> str:
    """The sources of these kernels, and of those that they call, each once.

    Names are those of `KERNELS`, and `linear_KIND` and `conv2d_KIND` for a kind of `WEIGHTS`, perhaps with `SPARSE` in
    front.
    """
    wanted: dict[str, None] = {}  # in the order of definition
    for name in names:
        sparse, family, kind = _parts(name)
        before = NEEDS.get(name, ())
        if family in ("linear", "conv2d"):
            helped = kind in KERNELS and not (sparse and kind in SPARSE_VALUES)
            before = (*((kind,) if helped else ()), *((f"{sparse}linear_{kind}",) if family == "conv2d" else ()))
        wanted |= dict.fromkeys((*before, name))
    return "".join(_source(name, prefix) for name in wanted)


def unpacking_floats(names: Iterable[str]) -> int:
    """How many floats these kernels unpack weights into."""
    dense = (name for name in names if not name.startswith(SPARSE))
    return LANES * CHUNK if any(name.endswith(("int4", "int2")) for name in dense) else 0


def whole_bytes(rows: np.ndarray, bits: int) -> np.ndarray:
    """Integers `[out, in]` of 4 or 2 bits with each row filled up, so that every row begins with a byte."""
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % (8 // bits))))


def _parts(name: str) -> tuple[str, str, str]:
    """`SPARSE` or nothing, the family and the kind of weights in a kernel's name."""
    sparse = SPARSE if name.startswith(SPARSE) else ""
    family, _, kind = name.removeprefix(sparse).partition("_")
    return sparse, family, kind


def _source(name: str, prefix: str) -> str:
    words: dict[str, object] = {"p": prefix, "lanes": LANES, "chunk": CHUNK}
    if name in KERNELS:
        return Template(KERNELS[name]).substitute(words)
    sparse, family, kind = _parts(name)
    ctype, value = WEIGHTS[kind]
    words |= {"kind": kind, "type": ctype, "scaled": " * scale[j]" if kind in INTEGER_BITS else "", "sparse": sparse}
    words |= {"mask_type": "const uint8_t *mask, ", "mask": "mask, "} if sparse else {"mask_type": "", "mask": ""}
    if sparse:
        words["value"] = SPARSE_VALUES.get(kind) or Template(value).substitute(p=prefix, e="e")
        return Template(SPARSE_LINEAR if family == "linear" else CONV2D).substitute(words)
    per_byte = 8 // INTEGER_BITS.get(kind, 8)
    first = ""
    if per_byte == 1:
        words["begin"], first = "const int e = j * in + i;", "e + "
    else:
        bytes_before = f"j * ((in + {per_byte - 1}) / {per_byte}) + i / {per_byte}"
        call = f"{prefix}_{kind}(w + {bytes_before}, (n + {per_byte - 1}) / {per_byte}, row);"
        words["begin"] = f"float row[{LANES * CHUNK}];\n      {call}"
    words["lane_weight"] = Template(value).substitute(p=prefix, e=f"{first}s + k")
    words["rest_weight"] = Template(value).substitute(p=prefix, e=f"{first}s")
    return Template(LINEAR if family == "linear" else CONV2D).substitute(words)
