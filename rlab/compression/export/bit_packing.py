"""Integers of 4 and 2 bits, several to a byte, and weights without their zeros."""

import numpy as np

# Weights of 8 bits that meet rounded inputs are uint8 around this in ONNX. As int8 they would give other numbers on x86
# without VNNI: onnxruntime 1.32 adds two products there in 16 bits, too few for 2 * 255 * 127; uint8 goes another way.
OFFSET = 128


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers of 8 bits or more (and floats) as they are; int8 within 4 or 2 bits as bytes, in row-major order.

    The first integer takes the lowest bits of the first byte, as ONNX has it; the last byte is filled up with zeros.
    """
    if bits >= 8:
        return values
    fields = values.reshape(-1).view(np.uint8) & (2**bits - 1)
    per_byte = 8 // bits
    filled = np.pad(fields, (0, -len(fields) % per_byte)).reshape(-1, per_byte)
    shifted: np.ndarray = np.bitwise_or.reduce(filled << np.arange(0, 8, bits, dtype=np.uint8), axis=1)
    return shifted


def without_zeros(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[...]` as a mask, uint8 `[ceil(n / 8)]`, and those that are not 0, `[kept]`, both in row-major order.

    The first weight has the lowest bit of the first byte. A 0 with a sign is kept, so that every bit comes back.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    kept = flat.view(f"u{flat.itemsize}") != 0
    return np.packbits(kept, bitorder="little"), flat[kept]


def unsigned(values: np.ndarray) -> np.ndarray:
    """int8 as uint8 around `OFFSET`."""
    return (values.astype(np.int16) + OFFSET).astype(np.uint8)
