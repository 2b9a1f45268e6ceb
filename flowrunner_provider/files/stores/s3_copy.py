"""Copy within S3: in one request up to 5 GiB, its limit for one request, and in parts beyond."""

from __future__ import annotations

from typing import Any

from flowrunner_provider.core.errors import AlreadyExists, FlowRunnerError, IntegrityError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.files.concurrency import for_each
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.object_upload import part_lengths
from flowrunner_provider.files.stores.s3_bucket import S3Bucket
from flowrunner_provider.files.stores.s3_parts import MAX_PARTS, S3Parts

__all__ = ["ONE_REQUEST", "copy_object"]

ONE_REQUEST = 5 * 1024**3
"""The largest object that CopyObject takes."""

_PART = 512 * 1024**2
_AT_ONCE = 8
_METADATA = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType", "Metadata")


async def copy_object(bucket: S3Bucket, key: str, target: str, *, replace: bool, source: Entry) -> None:
    """Copy an object with its metadata.

    :raises IntegrityError: if ``key`` has changed since ``source`` was listed.
    :raises AlreadyExists: if ``target`` exists and may not be replaced.
    """
    what = f"copying {bucket.label(key)} to {bucket.label(target)}"
    conditions: dict[str, Any] = {"IfNoneMatch": "*"} if not replace and bucket.capabilities.atomic_create else {}
    if (source.size or 0) > ONE_REQUEST:
        await _copy_in_parts(bucket, key, target, what, source, conditions)
        return
    try:
        await bucket.client.call(
            what, "copy_object", **_source_and_target(bucket, key, target, source), **bucket.settings, **conditions
        )
    except IntegrityError:
        raise await _failed_condition(bucket, target, what, replace=replace) from None


def _source_and_target(bucket: S3Bucket, key: str, target: str, source: Entry) -> dict[str, Any]:
    return {
        "Bucket": bucket.bucket,
        "Key": target,
        "CopySource": {"Bucket": bucket.bucket, "Key": key},
        "CopySourceIfMatch": source.version,
    }


async def _failed_condition(bucket: S3Bucket, target: str, what: str, *, replace: bool) -> FlowRunnerError:
    """Return the error for a failed condition: S3 answers both conditions with the same status."""
    if not replace:
        try:
            await bucket.refuse_existing(target)
        except AlreadyExists as error:
            return error
    return IntegrityError(f"{what}: the source has changed since it was listed", remedy="run the task again")


async def _copy_in_parts(
    bucket: S3Bucket, key: str, target: str, what: str, source: Entry, conditions: dict[str, Any]
) -> None:
    size = source.size or 0
    head = await bucket.client.call(what, "head_object", Bucket=bucket.bucket, Key=key)
    metadata = {name: head[name] for name in _METADATA if head.get(name)}
    where = {"Bucket": bucket.bucket, "Key": target}
    part_length = part_lengths(_PART, MAX_PARTS, size)
    await S3Parts(bucket, target, part_length, _AT_ONCE).abort()  # left by a killed attempt
    created = await bucket.client.call(what, "create_multipart_upload", **where, **metadata, **bucket.settings)
    where["UploadId"] = created["UploadId"]
    length = part_length(1)
    etags: dict[int, str] = {}

    async def part(start: int) -> None:
        number = start // length + 1
        answer = await bucket.client.call(
            what,
            "upload_part_copy",
            PartNumber=number,
            CopySourceRange=f"bytes={start}-{min(start + length, size) - 1}",
            **{**_source_and_target(bucket, key, target, source), "UploadId": created["UploadId"]},
        )
        etags[number] = answer["CopyPartResult"]["ETag"]

    try:
        await for_each(_AT_ONCE, part, range(0, size, length))
        parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
        failpoint("s3.before_complete_copy")
        await bucket.client.call(
            what, "complete_multipart_upload", MultipartUpload={"Parts": parts}, **where, **conditions
        )
    except FlowRunnerError:
        await bucket.client.call(what, "abort_multipart_upload", **where)
        raise
