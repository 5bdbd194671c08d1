"""Small pictures for the page: of an env, and of an observation with what its patches add."""

import base64
import struct
import zlib

import numpy as np

from rlab.evaluation.charts.palette import LIGHT, rgb

MOST_PIXELS = 240  # of the longer side of a picture
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(pixels: np.ndarray) -> bytes:
    """A picture `[height, width, 3]` uint8 as PNG (ISO/IEC 15948), each row as it is."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_address(pixels: np.ndarray) -> str:
    """A picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def small(pixels: np.ndarray) -> np.ndarray:
    """At most `MOST_PIXELS` along the longer side."""
    step = -(-max(pixels.shape[:2]) // MOST_PIXELS)
    return np.ascontiguousarray(pixels[::step, ::step])


def overlay(image: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """An image in grey, with its patches coloured: blue where they speak for the choice, orange against it.

    Args:
        image: `[H, W, C]` of any numbers; the newest channel is drawn, that of the largest index.
        shares: `[rows, columns]` of patches, at least one of them not 0.
    """
    grey = image[..., -1].astype(np.float64)
    low, high = grey.min(), grey.max()
    grey = (grey - low) / ((high - low) or 1.0)
    height, width = grey.shape
    side = -(-max(height, width) // max(shares.shape))
    spread = np.kron(shares, np.ones((side, side)))[:height, :width]
    strength = (np.abs(spread) / (np.abs(shares).max() or 1.0))[..., None] * 0.75  # [H, W, 1]
    color = np.where(spread[..., None] > 0, rgb(LIGHT["side0"]), rgb(LIGHT["side1"]))
    mixed = (0.25 + 0.6 * grey[..., None]) * (1 - strength) + color * strength
    scale = max(1, MOST_PIXELS // max(height, width))
    return np.kron((255 * mixed).round().astype(np.uint8), np.ones((scale, scale, 1), np.uint8))
