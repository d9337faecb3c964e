"""What an account is made of, as requests and operators give it."""

from typing import Annotated

from pydantic import BaseModel, Field

from server.auth import passwords
from server.fields import Text

Email = Annotated[
    Text,
    Field(
        min_length=3,
        max_length=254,
        examples=["ada@example.com"],
        json_schema_extra={"format": "email"},
    ),
]
Password = Annotated[Text, Field(examples=["correct horse battery"])]
NewPassword = Annotated[
    Password,
    Field(
        description=f"At most {passwords.MAX_BYTES} bytes.",
        json_schema_extra={"minLength": passwords.MIN_CHARACTERS},
    ),
]
Name = Annotated[Text, Field(max_length=200, examples=["Ada"])]


class Signup(BaseModel):
    """A new account."""

    email: Email
    password: NewPassword
    name: Name | None = None
