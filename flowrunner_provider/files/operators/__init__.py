"""Operators for files in any store, one module per noun."""

from __future__ import annotations

from flowrunner_provider.files.operators.archive import FileArchiveOperator, FileExtractOperator
from flowrunner_provider.files.operators.checksum import FileChecksumOperator
from flowrunner_provider.files.operators.content import FileReadOperator, FileWriteOperator
from flowrunner_provider.files.operators.copy import FileCopyOperator
from flowrunner_provider.files.operators.crypt import FileCryptoOperator
from flowrunner_provider.files.operators.delete import FileDeleteOperator, MakeDirectoryOperator
from flowrunner_provider.files.operators.list import FileListOperator
from flowrunner_provider.files.operators.presign import FilePresignOperator
from flowrunner_provider.files.operators.reshape import FileConcatOperator, FileEncodingOperator, FileSplitOperator
from flowrunner_provider.files.operators.shards import (
    FileSyncFinishOperator,
    FileSyncPlanOperator,
    FileSyncShardOperator,
)
from flowrunner_provider.files.operators.sync import FileSyncOperator

__all__ = [
    "FileArchiveOperator",
    "FileChecksumOperator",
    "FileConcatOperator",
    "FileCopyOperator",
    "FileCryptoOperator",
    "FileDeleteOperator",
    "FileEncodingOperator",
    "FileExtractOperator",
    "FileListOperator",
    "FilePresignOperator",
    "FileReadOperator",
    "FileSplitOperator",
    "FileSyncFinishOperator",
    "FileSyncOperator",
    "FileSyncPlanOperator",
    "FileSyncShardOperator",
    "FileWriteOperator",
    "MakeDirectoryOperator",
]
