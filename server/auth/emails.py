"""E-mail addresses: one spelling for each account."""

import unicodedata

from email_validator import EmailNotValidError, validate_email

from server.errors import Invalid


def normalize(address: str) -> str:
    """The address as it is stored and shown; accounts differ when `lower()` of it differs.

    Letters beyond ASCII are lower-cased here, since the databases' own `lower` disagree on them;
    ASCII letters stay as the user wrote them. Idempotent. Raises `Invalid`.
    """
    spelling = _spell(address)
    # NFKC can bring in an @, dots or blanks: such a spelling is no address, or another one.
    if _spell(spelling) != spelling:
        raise _refusal("The email address contains characters that stand for others.")
    return spelling


def _spell(address: str) -> str:
    try:
        # Companies have names of their own inside, such as .local and .internal.
        checked = validate_email(
            address.strip(), check_deliverability=False, globally_deliverable=False
        )
    except EmailNotValidError as error:
        raise _refusal(str(error)) from None
    if "." not in checked.domain:
        raise _refusal("The part after the @-sign has no dot.")
    local = unicodedata.normalize("NFKC", checked.local_part)
    local = "".join(c if c.isascii() else c.lower() for c in local)
    return f"{unicodedata.normalize('NFKC', local)}@{checked.ascii_domain or checked.domain}"


def _refusal(reason: str) -> Invalid:
    return Invalid(f"email: {reason}", loc=("body", "email"), code="bad_email")


def account_key(address: str) -> str:
    """What limits count an account by; also for text that is no address, which no account has."""
    try:
        return normalize(address).lower()
    except Invalid:
        return address.strip().lower()
