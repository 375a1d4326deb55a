"""Preparing a fetched picture: upright, correct in every mode; bombs and truncated pictures are refused."""

import hashlib
import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from data.pictures.header import PictureError
from data.pictures.prepare import Picture, PictureSettings, decode, prepare

UNRESIZED = PictureSettings(resize_mode="no", encode_format="png")


def scene(width: int = 120, height: int = 80) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.dstack([x * 255 // width, y * 255 // height, (x + y) % 256]).astype(np.uint8)
    pixels[:20, :30] = (255, 0, 0)
    return Image.fromarray(pixels)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(body: bytes, settings: PictureSettings = UNRESIZED) -> np.ndarray:
    return np.asarray(decode(prepare(body, settings).bytes), np.int16)


def status(body: bytes, settings: PictureSettings = UNRESIZED) -> str:
    with pytest.raises(PictureError) as caught:
        prepare(body, settings)
    assert str(caught.value)
    return caught.value.status


def with_orientation(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(scene(), kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(kind: str, orientation: int) -> None:
    body = with_orientation(kind, orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB"), np.int16)
    picture = prepare(body, UNRESIZED)
    assert (picture.original_height, picture.original_width) == expected.shape[:2]
    assert np.abs(np.asarray(decode(picture.bytes), np.int16) - expected).mean() < 1


def test_sixteen_bit_pictures_keep_their_greys() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(40, 0)
    grey = cv2.imencode(".png", ramp)[1].tobytes()
    colour = cv2.imencode(".png", np.dstack([ramp, ramp[:, ::-1], ramp // 2]))[1].tobytes()  # blue, green, red
    expected = np.arange(256)
    assert np.abs(pixels(grey)[0] - expected[:, None]).max() <= 1
    assert np.abs(pixels(colour)[0] - np.stack([expected // 2, expected[::-1], expected], 1)).max() <= 1
    low = cv2.imencode(".png", np.full((8, 8, 3), 1000, np.uint16))[1].tobytes()  # nearly black, once white
    assert pixels(low).max() <= 4


def test_cmyk_palette_grey_and_float_look_as_they_should() -> None:
    expected = np.asarray(scene(), np.int16)
    assert np.abs(pixels(encode(scene().convert("CMYK"), "JPEG", quality=98)) - expected).mean() < 3
    palette = scene().quantize(64)
    assert (pixels(encode(palette, "PNG")) == np.asarray(palette.convert("RGB"))).all()
    grey = scene().convert("L")
    assert (pixels(encode(grey, "PNG"))[..., 0] == np.asarray(grey)).all()
    assert pixels(encode(grey.convert("F"), "TIFF")).shape == expected.shape


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (20, 20), 0)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.paste(1, (10, 0, 20, 20))
        body = encode(image, "PNG", transparency=0)
    else:
        image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
        image.paste((255, 0, 0, 255), (10, 0, 20, 20))
        body = encode(image if mode == "RGBA" else image.convert("LA"), "PNG")
    decoded = pixels(body)
    assert (decoded[:, :10] == 255).all()
    assert (decoded[:, 10:] != 255).any()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_kept(kind: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    body = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(pixels(body) - (255, 0, 0)).max() < 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_half_a_picture_is_an_error(kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (150, 150, 3), dtype=np.uint8))
    body = encode(noise, kind)
    assert status(body[: int(len(body) * share)]) == "broken_image"


@pytest.mark.parametrize(("mode", "side"), [("keep_ratio_largest", 200), ("center_crop", 120), ("border", 60)])
def test_a_jpeg_decoded_at_a_fraction_looks_like_the_whole_one_made_smaller(mode: str, side: int) -> None:
    rough = scene(80, 60).resize((811, 603), Image.Resampling.BICUBIC)
    settings = PictureSettings(image_size=side, resize_mode=mode, encode_format="png")
    body, without_loss = encode(rough, "JPEG", quality=95), encode(rough, "PNG")
    picture, from_png = prepare(body, settings), prepare(without_loss, settings)
    assert (picture.original_width, picture.original_height) == (811, 603)
    assert (picture.width, picture.height) == (from_png.width, from_png.height)
    assert np.abs(pixels(body, settings) - pixels(without_loss, settings)).mean() < 1.5
    assert status(body[: len(body) * 2 // 3], settings) == "broken_image"


@pytest.mark.parametrize(
    "body",
    [b"", b"<!doctype html><html></html>", b'<svg xmlns="http://www.w3.org/2000/svg"/>', b"%PDF-1.7", b"\xff" * 99],
)
def test_what_is_no_picture_is_not_an_image(body: bytes) -> None:
    assert status(body) == "not_an_image"


def png(width: int, height: int, rows: bytes) -> bytes:
    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def webp_of(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sizes + bytes(40)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_a_bomb_is_refused_by_its_header() -> None:
    assert status(png(30_000, 30_000, b"")) == "too_many_pixels"
    assert status(webp_of(16_000, 16_000)) == "too_many_pixels"
    assert status(encode(scene(), "JPEG"), UNRESIZED.model_copy(update={"max_pixels": 1000})) == "too_many_pixels"


def test_a_part_of_a_png_that_says_it_is_huge_gets_no_room() -> None:
    body = encode(scene(), "PNG")
    at = body.index(b"IDAT") - 4
    assert status(body[:at] + b"\xf0\0\0\0" + body[at + 4 :]) == "broken_image"


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    body = encode(scene(), "JPEG", progressive=True)
    last = body.rindex(b"\xff\xda")
    assert prepare(body[:-2] + body[last:-2] * 20 + body[-2:], UNRESIZED)
    assert status(body[:-2] + body[last:-2] * 3000 + body[-2:]) == "broken_image"


def test_a_thin_picture_is_not_enlarged_into_a_bomb() -> None:
    settings = PictureSettings(image_size=512, resize_mode="keep_ratio", resize_only_if_bigger=False)
    assert status(encode(Image.new("L", (20_000, 1)), "PNG"), settings) == "too_many_pixels"


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        ("keep_ratio", (75, 50)),
        ("keep_ratio_largest", (50, 33)),
        ("center_crop", (50, 50)),
        ("border", (50, 50)),
        ("no", (120, 80)),
    ],
)
def test_each_resize_mode_gives_its_size(mode: str, size: tuple[int, int]) -> None:
    body = encode(scene(), "JPEG")
    for encode_format, kind in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")):
        settings = PictureSettings(image_size=50, resize_mode=mode, encode_format=encode_format)
        picture = prepare(body, settings)
        assert isinstance(picture, Picture)
        assert (picture.width, picture.height) == Image.open(io.BytesIO(picture.bytes)).size == size
        assert Image.open(io.BytesIO(picture.bytes)).format == kind
        assert (picture.original_width, picture.original_height) == (120, 80)
        assert picture.sha256 == hashlib.sha256(body).hexdigest()


def test_many_threads_give_what_one_gives_and_leave_the_output_alone(capfd: pytest.CaptureFixture[str]) -> None:
    bodies = [with_orientation("JPEG", 1 + n % 8) for n in range(64)]
    alone = [prepare(body, UNRESIZED) for body in bodies]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda body: prepare(body, UNRESIZED), bodies)) == alone
    os.write(1, b"still heard\n")
    assert "still heard" in capfd.readouterr().out
