"""What jobs need until they end: request bodies, and the images that these name by an id.

An image is stored once per tenant and content, however many jobs need it, and counts them. Call
these functions in a transaction that writes.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, null, select, update
from sqlalchemy.sql.elements import ColumnElement

from inference_server.jobs.models import IMAGE_FILES, IMAGES, JOBS, PAYLOADS
from inference_server.segmentation.types import StoredImage


def transfer(
    connection: Connection, job_id: str, tenant: str, payload: bytes, image: StoredImage | None
) -> None:
    """Store the request body of a job, and its image unless other jobs of the tenant have it.

    This may take long, and needs no lock on submissions.

    Args:
        connection: in the transaction that inserts the job, or drops this again.
        job_id: id of the job.
        tenant: owner of the image.
        payload: the request body.
        image: the image; None if there is none.
    """
    connection.execute(insert(PAYLOADS).values(job_id=job_id, content=payload))
    if image is not None and _file_of(connection, tenant, image) is None:
        connection.execute(insert(IMAGE_FILES).values(id=job_id, content=image.data))


def drop_transfer(connection: Connection, job_id: str) -> None:
    """Delete what was transferred for a job that is not inserted."""
    drop_payload(connection, job_id)
    connection.execute(delete(IMAGE_FILES).where(IMAGE_FILES.c.id == job_id))


def drop_payload(connection: Connection, job_id: str) -> None:
    """Delete the request body of a job."""
    connection.execute(delete(PAYLOADS).where(PAYLOADS.c.job_id == job_id))


def payload_of(connection: Connection, job_id: str) -> bytes:
    """Read the request body of an unfinished job."""
    query = select(PAYLOADS.c.content).where(PAYLOADS.c.job_id == job_id)
    payload: bytes = connection.execute(query).scalar_one()
    return payload


def keep_image(connection: Connection, job_id: str, tenant: str, image: StoredImage) -> None:
    """Record that one more job needs an image.

    Args:
        connection: in a transaction that excludes other submits, after `transfer`.
        job_id: id of the job.
        tenant: owner of the image.
        image: the image.
    """
    more = update(IMAGES).where(_is(tenant, image.digest)).values(jobs=IMAGES.c.jobs + 1)
    mine = IMAGE_FILES.c.id == job_id
    if connection.execute(more).rowcount:
        connection.execute(delete(IMAGE_FILES).where(mine))  # another submit was faster
        return
    if connection.scalar(select(IMAGE_FILES.c.id).where(mine)) is None:
        # The last job that needed it has ended since `transfer`.
        connection.execute(insert(IMAGE_FILES).values(id=job_id, content=image.data))
    row = {"tenant": tenant, "digest": image.digest, "jobs": 1, "nbytes": len(image.data)}
    connection.execute(insert(IMAGES).values(**row, file=job_id))


def image_of(connection: Connection, tenant: str, digest: str | None) -> StoredImage | None:
    """Read an image of an unfinished job; None if the job has none."""
    if digest is None:
        return None
    query = (
        select(IMAGE_FILES.c.content)
        .join(IMAGES, IMAGES.c.file == IMAGE_FILES.c.id)
        .where(_is(tenant, digest))
    )
    content: bytes | None = connection.execute(query).scalar_one_or_none()
    return None if content is None else StoredImage(content, digest)


def discard(connection: Connection, job_id: str) -> None:
    """Delete what a job needed; its image stays while other jobs need it.

    Args:
        connection: in a transaction that holds the job's row.
        job_id: the job's id.
    """
    drop_payload(connection, job_id)
    owned = select(JOBS.c.tenant, JOBS.c.image).where(
        JOBS.c.id == job_id, JOBS.c.image.is_not(None)
    )
    row = connection.execute(owned).one_or_none()
    if row is None:
        return
    connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(image=null()))
    # A counter, because PostgreSQL checks the condition of a delete again if another transaction
    # changed the row meanwhile, but not whether other jobs name it.
    this = _is(row.tenant, row.image)
    connection.execute(update(IMAGES).where(this).values(jobs=IMAGES.c.jobs - 1))
    unused = delete(IMAGES).where(this, IMAGES.c.jobs <= 0).returning(IMAGES.c.file)
    file = connection.execute(unused).scalar_one_or_none()
    if file is not None:
        connection.execute(delete(IMAGE_FILES).where(IMAGE_FILES.c.id == file))


def _file_of(connection: Connection, tenant: str, image: StoredImage) -> str | None:
    file: str | None = connection.scalar(select(IMAGES.c.file).where(_is(tenant, image.digest)))
    return file


def _is(tenant: str, digest: str) -> ColumnElement[bool]:
    return (IMAGES.c.tenant == tenant) & (IMAGES.c.digest == digest)
