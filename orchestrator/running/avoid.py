"""Keeps trials away, for a while, from nodes of a cluster where they fail through a fault of the machine.

Ray places a trial wherever there is room, and so again and again on a node whose trials fail at once. Its nodes have
their ids as labels, which a trial's request can exclude.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

log = logging.getLogger("dmf.cluster")

LABEL = "ray.io/node-id"
FAILURES_IN_A_ROW = 2
"""Failures on a node, without a success there, from which other trials are kept away; the one that failed always is."""
SHORTEST_S, LONGEST_S = 60.0, 3600.0
"""How long: the shortest time at first, twice as long after each further failure, up to the longest."""


@dataclass
class Avoided:
    """The nodes to avoid. Addresses are those in Ray's list of nodes."""

    nodes: Callable[[], dict[str, str]]
    """The id of every node that is alive and can run a trial, by address."""
    clock: Callable[[], float] = time.monotonic
    _failed: Counter[str] = field(default_factory=Counter)
    """Failures in a row, by address."""
    _until: dict[str, float] = field(default_factory=dict)

    def failed(self, address: str) -> None:
        """Note that a trial has failed on a node through a fault of the machine."""
        if not address:
            return
        self._failed[address] += 1
        if (further := self._failed[address] - FAILURES_IN_A_ROW) >= 0:
            pause_s = min(LONGEST_S, SHORTEST_S * 2**further)
            self._until[address] = self.clock() + pause_s
            log.warning(
                "node %s: %d trials in a row failed there through their machine's fault; it gets none for %.0f s",
                address,
                self._failed[address],
                pause_s,
            )

    def succeeded(self, address: str) -> None:
        """Note that a trial has ended well on a node."""
        self._failed.pop(address, None)
        self._until.pop(address, None)

    def selector(self, also: str = "") -> dict[str, str]:
        """The labels to ask for: any node but those to avoid now, and the one at the address `also`.

        Empty if there is nothing to avoid, or no other node.
        """
        now = self.clock()
        asked = {also, *(address for address, until in self._until.items() if until > now)} - {""}
        there = self.nodes() if asked else {}
        ids = sorted(there[address] for address in asked & there.keys())
        return {LABEL: f"!in({','.join(ids)})"} if ids and len(ids) < len(there) else {}
