"""Self-attention over a set, which FEAT adapts embeddings with."""

from __future__ import annotations

import math

from torch import Tensor, nn


class SetAttention(nn.Module):
    """One layer with one head: LayerNorm(x + W_o softmax(q k^T / sqrt(C)) v + b_o), with q, k, v linear in x."""

    def __init__(self, channels: int, attention_dropout: float = 0.1, output_dropout: float = 0.5) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.output = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.attention_drop, self.output_drop = nn.Dropout(attention_dropout), nn.Dropout(output_dropout)
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(channels))
        nn.init.xavier_normal_(self.output.weight)

    def forward(self, items: Tensor, together: Tensor | None = None) -> Tensor:
        """Items [B, I, C] -> adapted items [B, I, C].

        `together` [B, I, I] says which pairs of items are in one set; None: all of them.
        """
        logits = self.query(items) @ self.key(items).transpose(1, 2) / math.sqrt(items.shape[-1])
        if together is not None:
            logits = logits.masked_fill(~together, -math.inf)
        read = self.attention_drop(logits.softmax(-1)) @ self.value(items)
        adapted: Tensor = self.norm(items + self.output_drop(self.output(read)))
        return adapted
