"""Asks whether a Ray answers at an address: `python -m orchestrator.running.probe ADDRESS`.

A process of its own, since Ray's client tries for minutes and may abort its process. It prints the address as host:port
once it asks ("" if the address names none) and, as the last line of standard error, why there is no answer. Exit
status: 0 if a Ray answers.
"""

from __future__ import annotations

import socket
import sys

from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled


def main(given: str) -> int:
    """Ask, and return the exit status."""
    try:
        address = canonicalize_bootstrap_address(given)
        print(address or "", flush=True)
        if address is None:
            return 0
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port))).close()
        ensure_token_if_auth_enabled(None, create_token_if_missing=False)
        GcsClient(address=address)
    except Exception as error:  # from Ray, of many kinds
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
