"""HTTP of images."""

from fastapi import APIRouter, Response

import database_adapter
from server.auth.guard import CurrentCaller
from server.errors import NotFound, problems
from server.fields import PathId
from server.images import queries

router = APIRouter(tags=["images"])

_CONTENT = {
    media_type: {"schema": {"type": "string", "format": "binary"}}
    for media_type in ("image/png", "image/jpeg", "image/gif", "image/webp")
}


@router.get(
    "/images/{image_id}",
    response_class=Response,
    responses={200: {"content": _CONTENT}, **problems(400, 401, 404, 422)},
)
def get_image(image_id: PathId, caller: CurrentCaller) -> Response:
    """The bytes of an image, to the one who sent it."""
    with database_adapter.read_db() as conn:
        row = queries.find_image(conn, caller.id, image_id)
    if row is None:
        raise NotFound()
    return Response(
        bytes(row["data"]),
        media_type=row["media_type"],
        headers={
            "Cache-Control": "private, max-age=31536000, immutable",
            "Content-Disposition": "inline",
        },
    )
