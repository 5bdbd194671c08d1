"""What repairs a file in which a disk has flipped bits: the exclusive or of its blocks, and a checksum of each.

The block whose checksum is wrong is the exclusive or of all others and the parity. Complete chunks of a replay have
one, since every checkpoint that is kept needs the same file of them.
"""

import zlib

import numpy as np

BLOCK = 64 * 1024  # bytes


def parity_of(data: bytes) -> bytes:
    """The checksums (CRC-32, 4 bytes each, little-endian) of the blocks of `data`, and behind them their parity."""
    blocks = _blocks(data)
    checksums = np.array([zlib.crc32(block) for block in blocks], "<u4")
    return checksums.tobytes() + np.bitwise_xor.reduce(blocks, axis=0).tobytes()


def repaired(data: bytes, parity: bytes) -> bytes | None:
    """`data` as it was when `parity` was made of it, where damage lies in one block and changed no length; else None or
    something else: compare a checksum of the whole."""
    blocks = _blocks(data)
    if len(parity) != 4 * len(blocks) + BLOCK:
        return None
    checksums = np.frombuffer(parity, "<u4", len(blocks))
    (damaged,) = np.nonzero([zlib.crc32(block) != checksum for block, checksum in zip(blocks, checksums, strict=True)])
    if len(damaged) != 1:
        return None
    blocks[damaged[0]] = np.bitwise_xor.reduce(np.delete(blocks, damaged[0], axis=0), axis=0, initial=0)
    blocks[damaged[0]] ^= np.frombuffer(parity, np.uint8, BLOCK, 4 * len(blocks))
    return blocks.tobytes()[: len(data)]


def _blocks(data: bytes) -> np.ndarray:
    """A copy `[n, BLOCK]`, the last one filled up with zeros."""
    blocks = np.zeros((max(1, -(-len(data) // BLOCK)), BLOCK), np.uint8)
    blocks.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
    return blocks
