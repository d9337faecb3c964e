"""SQL about images."""

from server.images.checks import Image
from server.storage.contract import Connection, Row, fetch_all, fetch_one


def add_image(conn: Connection, user_id: int, message_id: int, image: Image) -> Row:
    """Store an image of a message; its row without the bytes."""
    row = fetch_one(
        conn,
        """
        INSERT INTO images (user_id, message_id, media_type, size_bytes, data)
        VALUES (%s, %s, %s, %s, %s)
        RETURNING id, media_type, size_bytes AS bytes
        """,
        (user_id, message_id, image.media_type, len(image.data), image.data),
    )
    return row or {}


def find_image(conn: Connection, user_id: int, image_id: int) -> Row | None:
    """One of the user's images, with its bytes."""
    return fetch_one(
        conn,
        """
        SELECT images.media_type, images.data
        FROM images
        JOIN messages ON messages.id = images.message_id AND messages.user_id = %(user_id)s
        JOIN sessions ON sessions.id = messages.session_id AND sessions.user_id = %(user_id)s
        JOIN projects ON projects.id = sessions.project_id AND projects.status = 'active'
        WHERE images.user_id = %(user_id)s AND images.id = %(image_id)s AND NOT sessions.deleting
        """,
        {"user_id": user_id, "image_id": image_id},
    )


def describe_images(conn: Connection, user_id: int, message_id: int) -> list[Row]:
    """The images of a message, without their bytes."""
    return fetch_all(
        conn,
        """
        SELECT id, media_type, size_bytes AS bytes FROM images
        WHERE user_id = %s AND message_id = %s ORDER BY id
        """,
        (user_id, message_id),
    )


def list_sizes(
    conn: Connection, user_id: int, session_id: int, first_id: int, last_id: int
) -> list[Row]:
    """The images of the messages between two ids, newest first, without their bytes."""
    return fetch_all(
        conn,
        """
        SELECT images.id, images.message_id, images.size_bytes
        FROM images JOIN messages ON messages.id = images.message_id
        WHERE images.user_id = %(user_id)s AND messages.user_id = %(user_id)s
            AND messages.session_id = %(session_id)s
            AND messages.id BETWEEN %(first_id)s AND %(last_id)s
        ORDER BY images.id DESC
        """,
        {"user_id": user_id, "session_id": session_id, "first_id": first_id, "last_id": last_id},
    )
