"""Copies within S3: in one request up to 5 GiB, in parts beyond, which one request cannot do."""

from __future__ import annotations

from typing import Any

from flowrunner_provider.core.errors import AlreadyExists, FlowRunnerError, IntegrityError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.files.concurrency import for_each
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.object_upload import part_lengths
from flowrunner_provider.files.stores.s3_bucket import S3Bucket
from flowrunner_provider.files.stores.s3_parts import MOST_PARTS, S3Parts

__all__ = ["ONE_REQUEST", "copy_object"]

ONE_REQUEST = 5 * 1024**3
"""The largest object that CopyObject takes."""

_PART = 512 * 1024**2
_AT_ONCE = 8
_KEPT = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType", "Metadata")


async def copy_object(bucket: S3Bucket, key: str, target: str, *, replace: bool, source: Entry) -> None:
    """Copy a key; its metadata goes along.

    :raises IntegrityError: if ``key`` is another version by now.
    :raises AlreadyExists: if ``target`` is taken and may not be replaced.
    """
    what = f"copying {bucket.label(key)} to {bucket.label(target)}"
    more: dict[str, Any] = {"IfNoneMatch": "*"} if not replace and bucket.capabilities.atomic_create else {}
    if (source.size or 0) > ONE_REQUEST:
        await _in_parts(bucket, key, target, what, source, more)
        return
    try:
        await bucket.client.call(what, "copy_object", **_ends(bucket, key, target, source), **bucket.settings, **more)
    except IntegrityError:
        raise await _which(bucket, target, what, replace=replace) from None


def _ends(bucket: S3Bucket, key: str, target: str, source: Entry) -> dict[str, Any]:
    return {
        "Bucket": bucket.bucket,
        "Key": target,
        "CopySource": {"Bucket": bucket.bucket, "Key": key},
        "CopySourceIfMatch": source.version,
    }


async def _which(bucket: S3Bucket, target: str, what: str, *, replace: bool) -> FlowRunnerError:
    """Both conditions are refused by the same status: find out which one it was."""
    if not replace:
        try:
            await bucket.refuse_existing(target)
        except AlreadyExists as error:
            return error
    return IntegrityError(f"{what}: it has changed meanwhile", remedy="run the task again")


async def _in_parts(bucket: S3Bucket, key: str, target: str, what: str, source: Entry, more: dict[str, Any]) -> None:
    size = source.size or 0
    about = await bucket.client.call(what, "head_object", Bucket=bucket.bucket, Key=key)
    kept = {name: about[name] for name in _KEPT if about.get(name)}
    where = {"Bucket": bucket.bucket, "Key": target}
    part_length = part_lengths(_PART, MOST_PARTS, size)
    await S3Parts(bucket, target, part_length, _AT_ONCE).abort()  # what a killed attempt has left
    upload = (await bucket.client.call(what, "create_multipart_upload", **where, **kept, **bucket.settings))["UploadId"]
    where["UploadId"] = upload
    length = part_length(1)
    etags: dict[int, str] = {}

    async def part(start: int) -> None:
        number = start // length + 1
        answer = await bucket.client.call(
            what,
            "upload_part_copy",
            PartNumber=number,
            CopySourceRange=f"bytes={start}-{min(start + length, size) - 1}",
            **{**_ends(bucket, key, target, source), "UploadId": upload},
        )
        etags[number] = answer["CopyPartResult"]["ETag"]

    try:
        await for_each(_AT_ONCE, part, range(0, size, length))
        parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
        failpoint("s3.before_complete_copy")
        await bucket.client.call(what, "complete_multipart_upload", MultipartUpload={"Parts": parts}, **where, **more)
    except FlowRunnerError:
        await bucket.client.call(what, "abort_multipart_upload", **where)
        raise
