"""Small whole files, with every feature that has a parser, for the fuzzer to damage."""

import numpy as np
from PIL import Image

from loadtest.chaos.image_bombs import many_scans
from loadtest.chaos.image_parts import (
    APP1,
    APP2,
    COM,
    chunk,
    lossless_webp_data,
    riff_chunk,
    segment,
    webp,
    webp_header,
)
from tests.support.images import jpegs, metadata, pngs, webps
from tests.support.photographs import encoded, photograph

_IMAGE = Image.fromarray(photograph("coffee")[100:116, 200:223])  # 23 x 16
_ODD = np.random.default_rng(0)


def _jpegs() -> list[bytes]:
    planes = jpegs.ycc(_IMAGE)
    grey = np.asarray(_IMAGE.convert("L"))
    progressive = [
        jpegs.Scan((0, 1, 2), 0, 0, 1),
        *(jpegs.Scan((component,), 1, 63) for component in range(3)),
        jpegs.Scan((0, 1, 2), 0, 0, 0, 1),
    ]
    exif = segment(APP1, b"Exif\0\0" + metadata.exif(6))
    profile = segment(APP2, b"ICC_PROFILE\0\1\1" + metadata.RED_IS_BLUE)
    cmyk = _IMAGE.convert("CMYK")
    previews = encoded(_IMAGE, "MPO", save_all=True, append_images=[_IMAGE.resize((8, 8))])
    return [
        jpegs.encode(planes, [(1, 1)] * 3, before=jpegs.jfif() + exif + profile),
        jpegs.encode(planes, [(2, 2), (1, 1), (1, 1)], restart=1),
        jpegs.encode(planes, [(4, 2), (1, 1), (1, 1)], ids=b"RGB"),
        jpegs.encode(planes, [(1, 1), (2, 2), (2, 2)], scans=[jpegs.Scan((i,)) for i in range(3)]),
        jpegs.encode(planes, [(2, 1), (1, 1), (1, 1)], scans=progressive),
        jpegs.encode([grey], [(2, 2)], before=exif),
        jpegs.lossless(grey),
        many_scans(23, 16, 60),
        encoded(_IMAGE, "JPEG", progressive=True, exif=b"Exif\0\0" + metadata.exif(3)),
        encoded(_IMAGE, "JPEG", icc_profile=metadata.SRGB, comment=b"comment"),
        encoded(cmyk, "JPEG", icc_profile=metadata.cmyk_profile()),
        jpegs.encode([*planes, grey], [(1, 1)] * 4, before=jpegs.adobe(2) + segment(COM, b"text")),
        previews,
    ]


def _pngs() -> list[bytes]:
    files = []
    for number, (colour_type, depth) in enumerate(pngs.KINDS):
        samples = _ODD.integers(0, 2**depth, (16, 23, pngs.CHANNELS[colour_type]))
        before = b""
        if colour_type == pngs.PALETTE:
            colours = _ODD.integers(0, 256, (2**depth, 3))
            before = pngs.palette(colours) + chunk(b"tRNS", b"\0\x80")
        elif colour_type in (pngs.GREY, pngs.RGB):
            before = pngs.transparent(*samples[0, 0].tolist())
        interlace = bool(number % 2)
        files.append(pngs.encode(samples, colour_type, depth, interlace=interlace, before=before))
    samples = np.asarray(_IMAGE)
    grey = np.asarray(_IMAGE.convert("L"))[..., None]
    once = chunk(b"gAMA", b"\0\0\xb1\x8f") + pngs.frames(1) + pngs.frame(0, 23, 16)
    return [
        *files,
        pngs.encode(samples, pngs.RGB, 8, before=pngs.profile(metadata.RED_IS_BLUE), pieces=3),
        pngs.encode(grey, pngs.GREY, 8, before=pngs.profile(metadata.grey_profile(1.0))),
        pngs.encode(samples, pngs.RGB, 8, before=chunk(b"eXIf", metadata.exif(6))),
        *(
            pngs.encode(samples, pngs.RGB, 8, after=pngs.raw_exif(kind, metadata.exif(8)))
            for kind in (b"tEXt", b"zTXt", b"iTXt")
        ),
        pngs.encode(samples, pngs.RGB, 8, before=once),
        encoded(_IMAGE, "PNG", save_all=True, append_images=[_IMAGE.rotate(90)]),
    ]


def _webps() -> list[bytes]:
    size = _IMAGE.size
    clear = _IMAGE.convert("RGBA")
    clear.putalpha(_IMAGE.convert("L"))
    flags = webps.EXIF | webps.PROFILE | webps.XMP
    profile = riff_chunk(b"ICCP", metadata.RED_IS_BLUE)
    after = riff_chunk(b"EXIF", metadata.exif(6)) + riff_chunk(b"XMP ", metadata.xmp(3))
    flat = riff_chunk(b"VP8L", lossless_webp_data(*size, (200, 100, 50, 128)))
    return [
        encoded(_IMAGE, "WEBP"),
        encoded(_IMAGE, "WEBP", lossless=True),
        encoded(clear, "WEBP"),
        encoded(clear, "WEBP", lossless=True),
        webps.extended(_IMAGE, flags, profile, after),
        webps.extended(_IMAGE, flags, profile, after, lossless=True),
        webps.extended(_IMAGE, 0, riff_chunk(b"prvt", b"odd")),
        webp(flat),
        webp(webp_header(*size, webps.ALPHA), flat),
        webps.animation(_IMAGE, 1),
        webps.animation(_IMAGE, 2),
        webps.animation(clear, 1, lossless=True),
    ]


SEEDS = [*_jpegs(), *_pngs(), *_webps()]
