"""Objects under one URI of an object store: list, read, write, remove. Only this module imports pyarrow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

from dmf.values import Value

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

OPTIONS = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=10"}
"""By scheme, what is added to a URI that does not have it: a small object is one request, not the three of an upload in
parts; who does not answer is given up before a quarter of an hour."""
CHUNK_BYTES = 8 * 2**20


class Seen(Value):
    """An object as it was listed; the time is the object store's."""

    size: int
    modified_ns: int


@dataclass(frozen=True)
class Objects:
    """All that starts with a URI. Names are relative to it, with "/"."""

    uri: str

    @classmethod
    def at(cls, uri: str) -> Self:
        """Those at `uri`. ValueError when there is no such bucket or it does not let us in."""
        scheme, _, rest = uri.partition("://")
        if scheme not in OPTIONS:
            raise ValueError(
                f"got {scheme}://..., and a store is s3://bucket/prefix, gs://bucket/prefix or the path "
                "of a folder; give one of them"
            )
        if "@" in rest.removeprefix("anonymous@").partition("?")[0]:  # they would be in logs and in MLflow's tags
            raise ValueError(
                f"the address of the store, {scheme}://..., has credentials in it; give them as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS, or in the files of "
                "these services instead"
            )
        objects = cls(uri)
        try:
            objects._check_bucket()
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"there is no reading {uri}: {reason[:300]}; see to its address and credentials") from None
        return objects

    def _check_bucket(self) -> None:
        from pyarrow.fs import FileType

        files, path = self._place
        bucket = path.partition("/")[0]
        if files.get_file_info(bucket).type == FileType.NotFound:
            raise FileNotFoundError(f"no bucket {bucket!r}")
        self.listed("none")  # which may be forbidden where looking at the bucket is not

    @cached_property
    def _place(self) -> tuple[FileSystem, str]:
        """Where requests go, and what all paths begin with."""
        from pyarrow.fs import FileSystem

        option = OPTIONS[self.uri.partition(":")[0]]
        more = "" if option.partition("=")[0] in self.uri else ("&" if "?" in self.uri else "?") + option
        files, path = FileSystem.from_uri(self.uri + more)
        return files, path.strip("/")

    def _path(self, name: str) -> str:
        return f"{self._place[1]}/{name}".rstrip("/")

    def listed(self, under: str = "") -> dict[str, Seen]:
        """Every object in a folder and its folders, by name."""
        from pyarrow.fs import FileSelector, FileType

        files, root = self._place
        infos = files.get_file_info(FileSelector(self._path(under), recursive=True, allow_not_found=True))
        return {
            info.path.removeprefix(f"{root}/"): Seen(size=info.size, modified_ns=info.mtime_ns)
            for info in infos
            if info.type == FileType.File
        }

    def _size(self, name: str) -> int | None:
        return self._place[0].get_file_info(self._path(name)).size

    def write(self, name: str, data: bytes) -> None:
        """Write an object. OSError when it is not there whole afterwards."""
        # In one piece: an error between two pieces would be followed by a close, which makes an object of the first.
        with self._place[0].open_output_stream(self._path(name), compression=None) as stream:
            stream.write(data)
        if (size := self._size(name)) != len(data):
            raise OSError(f"{name} has {size} bytes at {self.uri} after {len(data)} were written")

    def read(self, name: str) -> bytes:
        """An object, whole. FileNotFoundError when there is none."""
        while (size := self._size(name)) is not None:
            # A stream asks for as many bytes as it found when it was opened: of what was replaced since by more or
            # fewer it reads a part, or fails.
            try:
                data = b"".join(self.chunks(name))
            except OSError:
                if self._size(name) == size:
                    raise
                continue
            if self._size(name) == len(data):
                return data
        raise FileNotFoundError(f"there is no {name} at {self.uri}")

    def chunks(self, name: str) -> Iterator[bytes]:
        """An object that nobody replaces, in pieces."""
        with self._place[0].open_input_stream(self._path(name), compression=None) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._place[0].delete_file(self._path(name))
