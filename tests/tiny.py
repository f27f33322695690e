"""The text of a sweep file that takes seconds on the embedded glyphs."""

from __future__ import annotations

SETTINGS = """
  data.name: glyphs
  data.image_size: 28
  data.channels: 1
  data.normalisation: half
  model.backbone: conv64f
  episodes.queries: 2
  training.epochs: {epochs}
  training.warmup_epochs: 0
  training.episodes_per_epoch: 8
  training.validation_episodes: 4
  training.validate_every: 5
  training.device: cpu
"""


def tiny_sweep(name: str, about: str, parts: str, epochs: int, cpu: float = 1) -> str:
    """The text of a sweep file with the YAML lines `parts`."""
    head = f'name: {name}\nabout: "{about}"\nset:{SETTINGS.format(epochs=epochs)}'
    return f"{head}resources: {{cpu: {cpu}}}\nevaluation: {{episodes: 4}}\nparts:\n{parts}"
