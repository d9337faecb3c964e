"""The checks of images, over all bytes."""

import base64
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import Invalid, Problem, TooLarge
from server.images import checks
from tests.images import samples

MAKERS = [(kind, make) for kind, makers in samples.KINDS.items() for make in makers]
HEADS = [
    b"\x89PNG\r\n\x1a\n",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"\xff\xd8\xff",
    b"\xff\xd8\xff\xe0\0\x02\xff\xc0",
    b"GIF89a",
    b"GIF87a",
    b"RIFF\0\0\0\0WEBP",
    b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0",
    b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0/",
    b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0",
    b"",
]


def read(text: str) -> checks.Image | Problem:
    """What the service makes of one image."""
    try:
        (image,) = checks.read_all([text])
    except Problem as problem:
        return problem
    return image


@settings(deadline=None)
@given(st.sampled_from(HEADS), st.binary(max_size=60))
def test_any_bytes_are_an_image_or_a_problem(head: bytes, rest: bytes) -> None:
    """No header, however broken, ends in another exception: that would be a 500."""
    data = head + rest
    found = read(base64.b64encode(data).decode())
    if isinstance(found, checks.Image):
        assert found.data == data
        assert found.media_type in samples.KINDS
        assert data.startswith(tuple(head[:3] for head in HEADS if head))
    else:
        assert found.status in (415, 422)


@settings(deadline=None)
@given(st.one_of(st.text(), st.text().map("data:image/png;base64,{}".format)))
def test_any_text_is_an_image_or_a_problem(text: str) -> None:
    """Text that is no base64, no URL or another URL is a refusal."""
    found = read(text)
    assert isinstance(found, Problem)
    assert found.status in (415, 422)


@settings(deadline=None)
@given(
    st.sampled_from(MAKERS),
    st.integers(min_value=1, max_value=checks.MAX_SIDE),
    st.integers(min_value=1, max_value=checks.MAX_SIDE),
    st.data(),
)
def test_a_cut_image_is_never_larger_than_it_claims(
    made: tuple[str, Callable[[int, int], bytes]], width: int, height: int, data: st.DataObject
) -> None:
    """A whole header is accepted with its own type; a cut one is a problem or still that type."""
    kind, make = made
    whole = make(width, height)
    image = read(samples.url(whole))
    assert isinstance(image, checks.Image)
    assert (image.media_type, image.data) == (kind, whole)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    found = read(samples.url(cut))
    if isinstance(found, checks.Image):
        assert found.media_type == kind
        assert len(cut) >= 10


@pytest.mark.parametrize(("kind", "make"), MAKERS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_size_is_read_from_the_header(kind: str, make: Callable[[int, int], bytes]) -> None:
    """8,000 pixels a side are taken, 8,001 in either direction are not."""
    side = checks.MAX_SIDE
    assert isinstance(read(samples.url(make(side, side), kind)), checks.Image)
    for width, height in ((side + 1, 1), (1, side + 1)):
        found = read(samples.url(make(width, height), kind))
        assert isinstance(found, Invalid)
        assert found.code == "image_too_wide"


def test_the_limits_on_bytes_are_exact() -> None:
    """10 MB each and 15 MB in all; one byte more is too much."""

    def padded(size: int) -> str:
        return samples.url(samples.gif() + b"\0" * (size - len(samples.gif())))

    most, half = checks.MAX_BYTES, checks.MAX_TOTAL_BYTES // 2
    assert len(checks.read_all([padded(most), padded(half - 3 * 1024 * 1024)])) == 2
    assert len(checks.read_all([padded(half), padded(half)])) == 2
    for sent in ([padded(most + 1)], [padded(half), padded(half + 1)]):
        with pytest.raises(TooLarge) as refused:
            checks.read_all(sent)
        assert refused.value.code == "image_too_large"


def test_a_jpeg_frame_behind_metadata_is_found() -> None:
    """Cameras write up to 64 KiB a segment before the frame, progressive ones use SOF2."""
    metadata = (b"\xff\xe1\xff\xff" + b"x" * 65_533) * 3
    whole = samples.jpeg(9000, 10)
    found = read(samples.url(whole[:2] + metadata + whole[2:].replace(b"\xff\xc0", b"\xff\xc2")))
    assert isinstance(found, Invalid)
    assert found.code == "image_too_wide"
