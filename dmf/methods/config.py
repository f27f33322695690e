"""The configuration that all few-shot methods share; a method's own fields are in `config.py` of its folder."""

from __future__ import annotations

from typing import Any, ClassVar

from dmf.backbones.config import BackboneConfig
from dmf.values import Value


class MethodConfig(Value):
    """A few-shot method by name."""

    method: str
    """Subclasses narrow it to a Literal of their name, by which pydantic tells configurations apart."""
    learns: ClassVar[bool] = True
    """Whether episodes train it; what does not learn has neither seeds nor epochs."""
    needs_start: ClassVar[bool] = False
    """Whether it needs a pre-trained backbone."""

    @property
    def unread(self) -> dict[str, str]:
        """Fields that this configuration ignores, each with the setting that makes it do so."""
        return {}

    @property
    def backbone_name(self) -> str:
        """The backbone's name; empty where nothing embeds the images."""
        return ""

    def identity(self) -> dict[str, dict[str, Any]]:
        """By section, what tells this method's trainings apart; defaults and unread fields stay out."""
        fields = self.model_dump(mode="json", exclude_defaults=True, exclude=set(self.unread) | {"method"})
        return {"model": {"method": self.method, **fields}}


class EmbeddingMethodConfig(BackboneConfig, MethodConfig):
    """A method on the feature maps of a backbone."""

    @property
    def backbone_name(self) -> str:
        return self.backbone
