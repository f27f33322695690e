"""Settings of MAML."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import InnerLoopConfig


class MAMLConfig(InnerLoopConfig):
    """MAML (Finn et al., ICML 2017): gradient steps on backbone and classifier."""

    method: Literal["maml"] = "maml"
