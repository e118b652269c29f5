"""Reports 2021-06-30 (model reports_2021-06-30.json): asked for, looked after, downloaded."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus

import httpx
from msgspec import Struct

from shared.errors import RetryLaterError

from .gate import Lane, Operation
from .orders import iso
from .spapi import SpApi

CREATE_REPORT = Operation("createReport", 0.0167, 15)
GET_REPORT = Operation("getReport", 2, 15)
GET_REPORT_DOCUMENT = Operation("getReportDocument", 0.0167, 15)
DOWNLOAD_TIMEOUT = httpx.Timeout(60, connect=10)
_REPORTS = "/reports/2021-06-30/reports"
_DOCUMENTS = "/reports/2021-06-30/documents"
_PART_BYTES = 1 << 16


class ReportType(StrEnum):
    """All orders with their items, of every channel and status."""

    ORDERS_BY_ORDER_DATE = "GET_FLAT_FILE_ALL_ORDERS_DATA_BY_ORDER_DATE_GENERAL"
    ORDERS_BY_LAST_UPDATE = "GET_FLAT_FILE_ALL_ORDERS_DATA_BY_LAST_UPDATE_GENERAL"


class AddressExpiredError(RetryLaterError):
    """The document's address is older than its five minutes: get_report_document() gives a new one."""

    code = "report_address_expired"


class DownloadBrokenError(RetryLaterError):
    """The document did not come whole."""

    code = "report_download_broken"


class _Specification(Struct, frozen=True, rename="camel"):
    report_type: ReportType
    marketplace_ids: list[str]
    data_start_time: str
    data_end_time: str


class _Created(Struct, frozen=True, rename="camel"):
    report_id: str


class Report(Struct, frozen=True, rename="camel"):
    """processing_status: IN_QUEUE and IN_PROGRESS change; DONE has a document; CANCELLED is Amazon's word for no data,
    and for a cancellation; FATAL is a failure.
    """

    report_id: str
    processing_status: str
    report_document_id: str | None = None


class Document(Struct, frozen=True, rename="camel"):
    """Where a report can be had for five minutes. The address opens it to whoever has it."""

    url: str

    def __repr__(self) -> str:
        return "Document()"


class Content(Struct, frozen=True):
    """A document on its way, part by part; packed by gzip or not."""

    content_type: str | None
    parts: AsyncIterator[bytes]


async def create_report(
    api: SpApi,
    tenant_id: str,
    report_type: ReportType,
    marketplace_ids: list[str],
    start: datetime,
    end: datetime,
    *,
    lane: Lane = Lane.BACKFILL,
    wait_seconds: float = 0,
) -> str:
    """The id of a report of at most 30 days, of at most 25 marketplaces. Errors as SpApi.post()."""
    asked = _Specification(report_type, marketplace_ids, iso(start), iso(end))
    created = await api.post(tenant_id, CREATE_REPORT, _REPORTS, asked, _Created, lane=lane, wait_seconds=wait_seconds)
    return created.report_id


async def get_report(
    api: SpApi, tenant_id: str, report_id: str, *, lane: Lane = Lane.BACKFILL, wait_seconds: float = 0
) -> Report:
    """How far it is. Errors as SpApi.get()."""
    return await api.get(
        tenant_id, GET_REPORT, f"{_REPORTS}/{report_id}", {}, Report, lane=lane, wait_seconds=wait_seconds
    )


async def get_report_document(
    api: SpApi, tenant_id: str, document_id: str, *, lane: Lane = Lane.BACKFILL, wait_seconds: float = 0
) -> Document:
    """Where its document is. Errors as SpApi.get()."""
    path = f"{_DOCUMENTS}/{document_id}"
    return await api.get(tenant_id, GET_REPORT_DOCUMENT, path, {}, Document, lane=lane, wait_seconds=wait_seconds)


@asynccontextmanager
async def download(http: httpx.AsyncClient, document: Document) -> AsyncIterator[Content]:
    """The document as it is sent, no faster than the caller takes it. http: a client of its own, as the address is not
    the Selling Partner API's and gets no token. AddressExpiredError; DownloadBrokenError, from the parts too.
    """
    try:
        async with http.stream("GET", document.url, headers={"accept-encoding": "identity"}) as answer:
            if answer.status_code == HTTPStatus.FORBIDDEN:
                raise AddressExpiredError("The address of the report's document opens nothing any more.")
            if not answer.is_success:
                raise DownloadBrokenError(f"The report's document was answered with {answer.status_code}.")
            yield Content(answer.headers.get("content-type"), answer.aiter_raw(_PART_BYTES))
    except httpx.HTTPError as error:
        raise DownloadBrokenError(f"The report's document did not come whole ({type(error).__name__}).") from error
