"""The passwords that people choose most: the first that are tried (zxcvbn's list of 30,000)."""

LONGEST = 20


def is_common(word: str) -> bool:
    """Whether the word, in lower case, is one of them."""
    if len(word) > LONGEST:
        return False
    # 13 MB, which a process needs only where somebody chooses a password or a short secret.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return word in FREQUENCY_LISTS["passwords"]
