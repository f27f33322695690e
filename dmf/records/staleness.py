"""Whether a record is stale: made by other code or from other images than today's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dmf.config import AnyTraining, DataConfig, EvaluationConfig, OtherDataConfig
from dmf.data.sets import fingerprint_for
from dmf.records.provenance import code_hashes
from dmf.records.records import FORMAT


@dataclass(frozen=True)
class Today:
    """Today's code and images. It looks up the fingerprint of each set of images once."""

    accept_stale: bool = False
    """Whether the user wants to use stale records anyway."""
    code: Callable[[AnyTraining], dict[str, str]] = code_hashes
    """Today's `code_hash` of a training by device type."""
    _fingerprints: dict[tuple[DataConfig, str, OtherDataConfig | None], str | None] = field(
        default_factory=dict, repr=False
    )

    def doubts(
        self,
        config: AnyTraining,
        code: str,
        data_fingerprint: str,
        format_: int = FORMAT,
        evaluation: EvaluationConfig | None = None,
    ) -> tuple[str, ...]:
        """Reasons why a record with that code, those images and that format is stale; empty if there are none.

        For the record of an evaluation, `evaluation` says what was tested on; None for a training's.
        Images that are not on this machine cannot be checked and give no reason.
        """
        if format_ != FORMAT:
            return (f"of record format {format_}, today's is {FORMAT}",)
        found = []
        hashes = self.code(config)
        if code not in hashes.values():
            found.append(f"made by other code ({code}, today's is {hashes['cpu']})" if code else "made by unknown code")
        images = self._fingerprint(config, evaluation)
        if images and images != data_fingerprint:
            found.append(f"made from other images ({data_fingerprint[:8]}, today's are {images[:8]})")
        return tuple(found)

    def _fingerprint(self, config: AnyTraining, evaluation: EvaluationConfig | None) -> str | None:
        key = config.data, config.augmentation.crop, evaluation.data if evaluation else None
        if key not in self._fingerprints:
            self._fingerprints[key] = fingerprint_for(config, evaluation)
        return self._fingerprints[key]
