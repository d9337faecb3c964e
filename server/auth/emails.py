"""E-mail addresses: one spelling for each account."""

import unicodedata

from email_validator import EmailNotValidError, validate_email

from server.errors import Invalid


def normalize(address: str) -> str:
    """The address as it is stored and shown; accounts differ when `lower()` of it differs.

    Letters beyond ASCII are lower-cased here, since the databases' own `lower` disagree on them;
    ASCII letters stay as the user wrote them. Idempotent. Raises `Invalid`.
    """
    try:
        checked = validate_email(address.strip(), check_deliverability=False)
    except EmailNotValidError as error:
        raise Invalid(f"email: {error}", loc=("body", "email"), code="bad_email") from None
    local = unicodedata.normalize("NFKC", checked.local_part)
    local = "".join(c if c.isascii() else c.lower() for c in local)
    return f"{unicodedata.normalize('NFKC', local)}@{checked.ascii_domain or checked.domain}"


def account_key(address: str) -> str:
    """What limits count an account by; also for text that is no address, which no account has."""
    try:
        return normalize(address).lower()
    except Invalid:
        return address.strip().lower()
