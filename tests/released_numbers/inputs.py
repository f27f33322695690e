"""The inputs and weights behind the numbers in this folder, drawn from NumPy's frozen RandomState stream."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

KEYS = Path(__file__).with_name("official_keys.json")
"""Key -> shape in the released model's state dict, in order; counters have no shape."""


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, float32."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def tasks(seed: int, start: np.ndarray, repeats: int, queries: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples around a class's prototype: 0.7 times the prototype plus 0.7 times noise."""
    share = np.float32(0.7)
    support = share * np.repeat(start, repeats, axis)
    support = support + share * normal(seed + 1, *support.shape)
    query = share * np.take(start, queries, axis)
    return support, query + share * normal(seed + 2, *query.shape)


def feature_maps(seed: int, episodes: int, way: int, queries: int, channels: int, side: int, shots: int):
    """Support [B, N*K, C, H, W], sorted by class, and query [B, Q, C, H, W], where query j has class j % N."""
    prototypes = normal(seed, episodes, way, channels, side, side)
    pair = tasks(seed, prototypes, shots, np.arange(queries) % way, 1)
    return tuple(torch.from_numpy(np.where(x > 0, x, np.float32(0.1) * x)) for x in pair)


def images(seed: int, way: int, shots: int, per_class: int) -> tuple[Tensor, Tensor, Tensor]:
    """Support [1, N*K, 3, 84, 84], query [1, N*Q, 3, 84, 84], global labels [N*Q]."""
    order = np.arange(way * per_class) % way
    support, query = tasks(seed, normal(seed, way, 3, 84, 84), shots, order, 0)
    labels = np.random.RandomState(seed + 3).randint(0, 64, way * per_class)
    return torch.from_numpy(support)[None], torch.from_numpy(query)[None], torch.from_numpy(labels)


def head_weights(seed: int, channels: int, groups: int) -> tuple[Tensor, Tensor]:
    """Offset convolution [18, 2C, 5, 5], for offsets of about 1.5 positions, and filter convolution [G, C, 3, 3]."""
    offset = normal(seed + 3, 18, 2 * channels, 5, 5) * np.float32(1.5 / (math.sqrt(50 * channels) * 0.7))
    kernel = normal(seed + 4, groups, channels, 3, 3) * np.float32(1 / (math.sqrt(9 * channels) * 0.7))
    return torch.from_numpy(offset), torch.from_numpy(kernel)


def official_state_dict(seed: int) -> dict[str, Tensor]:
    """Weights for every key of the released model."""
    state = {}
    for index, (key, shape) in enumerate(json.loads(KEYS.read_text()).items()):
        if shape is None:
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        values = normal(seed + 1000 + index, *shape)
        fan = math.prod(shape[1:])
        if "running_mean" in key or key.endswith(".bias"):
            values = 0.1 * values
        elif "running_var" in key:
            values = 1 + 0.5 * np.tanh(values)
        elif len(shape) == 1:
            values = 0.6 + 0.2 * np.tanh(values)
        elif key.endswith("off_conv.weight"):
            values = values * np.float32(1.5 / math.sqrt(fan))
        elif key.endswith("kernel_conv.weight"):
            values = values * np.float32(1 / math.sqrt(fan))
        else:
            values = values * np.float32(math.sqrt(2 / fan)) * np.float32(1 if key.startswith("base") else 0.5)
        state[key] = torch.from_numpy(np.asarray(values, np.float32))
    return state
