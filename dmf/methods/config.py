"""Settings that few-shot methods share. A method's own settings are in `config.py` of its folder."""

from __future__ import annotations

from typing import Any, ClassVar

from dmf.backbones.config import BackboneConfig
from dmf.values import Value


class MethodConfig(Value):
    """Base class of the methods' configurations."""

    method: str
    """The method's name. Subclasses narrow it to a Literal, which pydantic uses to tell configurations apart."""
    learns: ClassVar[bool] = True
    """Whether the method is trained on episodes. Without it, there are no epochs and no seeds."""
    needs_start: ClassVar[bool] = False
    """Whether it needs a pre-trained backbone."""

    @property
    def unread(self) -> dict[str, str]:
        """Settings that have no effect in this configuration, each with the setting that is the reason."""
        return {}

    @property
    def backbone_name(self) -> str:
        """The backbone's name; empty if the method has no backbone."""
        return ""

    def identity(self) -> dict[str, dict[str, Any]]:
        """The method's part of a training's identity, by section, without defaults and unread fields."""
        fields = self.model_dump(mode="json", exclude_defaults=True, exclude=set(self.unread) | {"method"})
        return {"model": {"method": self.method, **fields}}


class EmbeddingMethodConfig(BackboneConfig, MethodConfig):
    """A method that works on a backbone's feature maps."""

    @property
    def backbone_name(self) -> str:
        return self.backbone
