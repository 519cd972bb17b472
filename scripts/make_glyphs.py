#!/usr/bin/env python3
"""Writes the letters and digits that `rkv eval` draws its pictures with, as C++ source.

usage: scripts/make_glyphs.py [FONT] > apps/rkv/eval/glyphs.inc

Needs Pillow; FONT is DejaVuSans-Bold.ttf. Only needed if sizes or characters change: the output is in
the repository.
"""

import string
import sys

from PIL import ImageFont

SETS = ((12, string.ascii_uppercase + string.digits), (13, string.ascii_uppercase), (14, string.ascii_uppercase))


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf"
    print("// Made by scripts/make_glyphs.py from DejaVu Sans Bold (THIRD_PARTY_NOTICES.md).")
    print("// {character, size, left, top, width, height, advance, coverage of the pixels in hexadecimal},")
    print("// where left and top are from the upper left corner of the line.")
    for size, characters in SETS:
        font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
        for character in characters:
            mask, (left, top) = font.getmask2(character, mode="L")
            width, height = mask.size
            pixels = bytes(mask).hex()
            advance = round(font.getlength(character))
            print(f"{{'{character}', {size}, {left}, {top}, {width}, {height}, {advance},")
            for at in range(0, len(pixels), 88):
                end = "}," if at + 88 >= len(pixels) else ""
                print(f' "{pixels[at:at + 88]}"{end}')


if __name__ == "__main__":
    main()
