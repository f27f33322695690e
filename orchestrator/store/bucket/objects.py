"""Objects under one URI of an object store: list, read, write, delete. Only this module imports obstore.

    s3://bucket/prefix    gs://bucket/prefix    s3://anonymous@bucket/prefix

A query may name another server than Amazon's or Google's, and a region of S3 other than us-east-1:
`?endpoint_override=host:port&scheme=http&region=eu-west-1`; the scheme is https unless it says otherwise. For S3 the
environment does the same with AWS_ENDPOINT_URL and AWS_REGION. Credentials come from the environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Self, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import GCSStore, S3Store

if TYPE_CHECKING:
    from obstore import PutResult, UpdateVersion

STORES = {"s3": S3Store, "gs": GCSStore}
QUERY = {"s3": ("endpoint_override", "scheme", "region"), "gs": ("endpoint_override", "scheme")}
"""What the query of a URI may set, by scheme."""
RETRIES = {"max_retries": 5, "retry_timeout": timedelta(seconds=10)}
"""For how long obstore tries a request again, in practice a second or two; callers that can wait longer try again."""
PARTS_AT_ONCE = 4
"""Of an object of more than 5 MiB. obstore gives each part 30 s, so a slow line must not carry many at once."""
CHECKSUM = "sha256"
"""The metadata of every object that is written here."""
ANSWER = re.compile(r"<.*<Code>(.*?)</Code>.*<Message>(.*?)</Message>.*")
"""An error as S3 and Google Cloud Storage send it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object in a list. The time, in seconds since 1970, is the object store's, as a rule in whole seconds."""

    size: int
    e_tag: str | None
    modified_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """An object that was read."""

    data: bytes
    e_tag: str | None
    modified_s: float
    version: UpdateVersion
    """For `swap`."""


@dataclass(frozen=True)
class Objects:
    """The objects whose address starts with a URI. Names are relative to it, with "/".

    Every method raises OSError when the object store refuses or does not answer.
    """

    uri: str

    @classmethod
    def at(cls, uri: str) -> Self:
        """The objects at `uri`. ValueError when the bucket is not there or refuses us."""
        scheme, _, rest = uri.partition("://")
        if scheme not in STORES:
            raise ValueError(
                f"got {scheme}://..., and a store is s3://bucket/prefix, gs://bucket/prefix or the path "
                "of a folder; give one of them"
            )
        if "@" in rest.removeprefix("anonymous@").partition("?")[0]:  # they would be in logs and in MLflow's tags
            raise ValueError(
                f"the address of the store, {scheme}://..., has credentials in it; give them in the environment "
                "instead, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or GOOGLE_APPLICATION_CREDENTIALS"
            )
        objects = cls(uri)
        try:
            objects.listed("none")
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {uri}: {error}; check its address and credentials") from None
        return objects

    @cached_property
    def _store(self) -> S3Store | GCSStore:
        place = urlsplit(self.uri)
        bucket = place.netloc.removeprefix("anonymous@")
        if not bucket:
            raise ValueError("it names no bucket")
        options = _options(place)
        if place.netloc != bucket:
            options["skip_signature"] = True
        opened: S3Store | GCSStore = STORES[place.scheme](
            bucket,
            prefix=unquote(place.path).strip("/") or None,
            config=options,
            client_options={"allow_http": True},  # used only where an endpoint begins with http://
            retry_config=RETRIES,
        )
        return opened

    def listed(self, under: str = "") -> dict[str, Seen]:
        """Every object in a folder and its folders, by name."""
        with _asking():
            pages = self._store.list(under or None, chunk_size=1000)
            return {
                each["path"]: Seen(each["size"], each["e_tag"], each["last_modified"].timestamp())
                for page in pages
                for each in page
            }

    def write(self, name: str, data: bytes) -> UpdateVersion:
        """Write an object, whole or not at all."""
        with _asking():
            put = self._store.put(name, data, attributes=_checksum(data), max_concurrency=PARTS_AT_ONCE)
        return _version(put)

    def swap(self, name: str, data: bytes, former: UpdateVersion | None) -> UpdateVersion | None:
        """Write an object if its version is still `former` (None: if there is no object); returns the new version.

        Returns None if the object has changed. Where the answer to a write is lost, obstore tries again, finds the
        object changed by its own first try, and the result is None too.
        """
        with _asking():
            try:
                return _version(self._store.put(name, data, attributes=_checksum(data), mode=former or "create"))
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return None

    def find(self, name: str) -> Found | None:
        """An object, whole; None when there is none. OSError when it is damaged."""
        try:
            with _asking():
                answer = self._store.get(name)
                data, meta = bytes(answer.bytes()), answer.meta
        except FileNotFoundError:
            return None
        if (written := answer.attributes.get(CHECKSUM)) and written != sha256(data):
            raise OSError(f"{name} at {self.uri} is damaged: its SHA-256 has changed; delete it to go on without it")
        return Found(data, meta["e_tag"], meta["last_modified"].timestamp(), _version(meta))

    def checksum(self, name: str) -> str | None:
        """SHA-256 that an object was written with; None without an object, or when somebody else wrote it."""
        try:
            with _asking():
                return self._store.get(name, options={"head": True}).attributes.get(CHECKSUM)
        except FileNotFoundError:
            return None

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there needs nothing."""
        for name in names:
            with contextlib.suppress(FileNotFoundError), _asking():
                self._store.delete(name)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Around a request: an OSError of one sentence in place of obstore's own exceptions, which have many lines."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(_sentence(error)) from None
    except BaseError as error:
        raise OSError(_sentence(error)) from None


def sha256(data: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _checksum(data: bytes) -> dict[str, str]:
    return {CHECKSUM: sha256(data)}


def _version(answer: PutResult) -> UpdateVersion:
    return cast("UpdateVersion", {key: answer[key] for key in ("e_tag", "version") if answer[key] is not None})


def _options(place: SplitResult) -> dict[str, str | bool]:
    """What the query of a URI says, as obstore calls it."""
    asked: dict[str, str | bool] = dict(parse_qsl(place.query, keep_blank_values=True))
    if unknown := asked.keys() - set(QUERY[place.scheme]):
        raise ValueError(f"its query has {', '.join(sorted(unknown))}, and may have {', '.join(QUERY[place.scheme])}")
    scheme, host = asked.pop("scheme", "https"), asked.pop("endpoint_override", None)
    if host:
        asked["endpoint" if place.scheme == "s3" else "base_url"] = f"{scheme}://{host}"
    return asked


def _sentence(error: Exception) -> str:
    said = " ".join(str(error).partition("\n\nDebug source")[0].split())
    return ANSWER.sub(r"\1, \2", said)[:400]
