"""Lists, reads, writes and deletes objects at one URI of an object store. Only this module imports obstore.

    s3://bucket/prefix    gs://bucket/prefix    s3://anonymous@bucket/prefix

A query may name another server than Amazon's or Google's, and another S3 region than us-east-1:
`?endpoint_override=host:port&scheme=http&region=eu-west-1`; the default scheme is https. For S3, AWS_ENDPOINT_URL and
AWS_REGION in the environment do the same. Credentials come from the environment, for S3 also from a profile in ~/.aws.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
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
    from obstore.auth.boto3 import Boto3CredentialProvider

STORES = {"s3": S3Store, "gs": GCSStore}
QUERY = {"s3": ("endpoint_override", "scheme", "region"), "gs": ("endpoint_override", "scheme")}
"""The keys that a URI's query may have, by scheme."""
RETRIES = {"max_retries": 5, "retry_timeout": timedelta(seconds=10)}
"""How long obstore retries a request: in practice a second or two. Callers that can wait longer retry themselves."""
PARTS_AT_ONCE = 4
"""Parts of an object of more than 5 MiB that are sent at once. obstore gives each part 30 s, so on a slow line there
must not be many."""
CHECKSUM = "sha256"
"""The metadata key that every object written here has."""
ANSWER = re.compile(r"<.*<Code>(.*?)</Code>.*<Message>(.*?)</Message>.*")
"""Matches an error from S3 or Google Cloud Storage."""


class DamagedObject(OSError):
    """An object is not what was written."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object in a listing. The time is the object store's, in seconds since 1970, usually whole seconds."""

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
    """Its version, for `swap`."""


@dataclass(frozen=True)
class Objects:
    """The objects below a URI. Names are relative to it, with "/".

    Every method raises OSError if the object store refuses or does not answer.
    """

    uri: str

    @classmethod
    def at(cls, uri: str) -> Self:
        """The objects at `uri`. Raises ValueError if the bucket does not exist or refuses access."""
        scheme, _, rest = uri.partition("://")
        if scheme not in STORES:
            raise ValueError(
                f"got {scheme}://..., but a store is s3://bucket/prefix, gs://bucket/prefix or a folder; "
                "give one of them"
            )
        if "@" in rest.removeprefix("anonymous@").partition("?")[0]:  # they would end up in logs and in MLflow's tags
            raise ValueError(
                f"the store's address, {scheme}://..., contains credentials; set them in the environment "
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
        provider = None
        if place.netloc != bucket:
            options["skip_signature"] = True
        elif place.scheme == "s3" and not os.environ.get("AWS_ACCESS_KEY_ID"):
            provider = _profile(options)
        opened: S3Store | GCSStore = STORES[place.scheme](
            bucket,
            prefix=unquote(place.path).strip("/") or None,
            config=options,
            credential_provider=provider,
            client_options={"allow_http": True},  # used only if an endpoint begins with http://
            retry_config=RETRIES,
        )
        return opened

    def listed(self, under: str = "") -> dict[str, Seen]:
        """Every object below a folder, by name."""
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
        """Write an object if its version is still `former` (None: if there is no object); return the new version.

        Returns None if the object has changed. If the answer to a write is lost, obstore retries and finds the object
        changed by its own first try; then the result is None too.
        """
        with _asking():
            try:
                return _version(self._store.put(name, data, attributes=_checksum(data), mode=former or "create"))
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return None

    def find(self, name: str) -> Found | None:
        """Read an object; None if there is none. Raises DamagedObject if it is damaged."""
        try:
            with _asking():
                answer = self._store.get(name)
                data, meta = bytes(answer.bytes()), answer.meta
        except FileNotFoundError:
            return None
        if (written := answer.attributes.get(CHECKSUM)) and written != sha256(data):
            raise DamagedObject(
                f"{name} at {self.uri} is damaged: its SHA-256 does not match; delete it to continue without it"
            )
        return Found(data, meta["e_tag"], meta["last_modified"].timestamp(), _version(meta))

    def checksum(self, name: str) -> str | None:
        """The SHA-256 stored with an object; None without an object, or if another program wrote it."""
        try:
            with _asking():
                return self._store.get(name, options={"head": True}).attributes.get(CHECKSUM)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        try:
            with _asking():
                self._store.head(name)
        except FileNotFoundError:
            return False
        return True

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, if they exist."""
        for name in names:
            with contextlib.suppress(FileNotFoundError), _asking():
                self._store.delete(name)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Replace obstore's exceptions, which have many lines, with an OSError of one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(_sentence(error)) from None
    except BaseError as error:
        raise OSError(_sentence(error)) from None


def sha256(data: bytes) -> str:
    """The SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _checksum(data: bytes) -> dict[str, str]:
    return {CHECKSUM: sha256(data)}


def _version(answer: PutResult) -> UpdateVersion:
    return cast("UpdateVersion", {key: answer[key] for key in ("e_tag", "version") if answer[key] is not None})


def _options(place: SplitResult) -> dict[str, str | bool]:
    """The options in a URI's query, under obstore's names."""
    asked: dict[str, str | bool] = dict(parse_qsl(place.query, keep_blank_values=True))
    if unknown := asked.keys() - set(QUERY[place.scheme]):
        raise ValueError(
            f"its query has {', '.join(sorted(unknown))}; it may only have {', '.join(QUERY[place.scheme])}"
        )
    scheme, host = asked.pop("scheme", "https"), asked.pop("endpoint_override", None)
    if host:
        asked["endpoint" if place.scheme == "s3" else "base_url"] = f"{scheme}://{host}"
    return asked


def _profile(options: dict[str, str | bool]) -> Boto3CredentialProvider | None:
    """The credentials of $AWS_PROFILE in ~/.aws, as boto3 finds them, and its region; None without boto3 or a profile.

    obstore itself reads the environment, and the roles of instances and containers.
    """
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return None
    session = boto3.Session()
    if not session.available_profiles:
        return None
    if session.region_name:
        options.setdefault("region", session.region_name)
    return Boto3CredentialProvider(session)


def _sentence(error: Exception) -> str:
    said = " ".join(str(error).partition("\n\nDebug source")[0].split())
    return ANSWER.sub(r"\1, \2", said)[:400]
