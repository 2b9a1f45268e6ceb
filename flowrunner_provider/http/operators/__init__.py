"""Operators for HTTP and REST APIs, one module per operator.

Engines and hooks are imported inside ``perform``, so parsing a DAG does not import them.
"""

from __future__ import annotations

from flowrunner_provider.http.operators.async_job import HttpAsyncJobOperator
from flowrunner_provider.http.operators.batch import HttpBatchOperator
from flowrunner_provider.http.operators.download import HttpDownloadOperator
from flowrunner_provider.http.operators.graphql import GraphQLOperator
from flowrunner_provider.http.operators.paginate import HttpPaginateOperator
from flowrunner_provider.http.operators.request import HttpRequestOperator
from flowrunner_provider.http.operators.upload import HttpUploadOperator

__all__ = [
    "GraphQLOperator",
    "HttpAsyncJobOperator",
    "HttpBatchOperator",
    "HttpDownloadOperator",
    "HttpPaginateOperator",
    "HttpRequestOperator",
    "HttpUploadOperator",
]
