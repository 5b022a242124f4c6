#!/usr/bin/env python3
"""Writes the text of "Pride and Prejudice" from the R package `janeaustenr`.

usage: pride.py Rdata.rdb OUT.txt

The file is a sequence of records. Each is the length of its content, in four bytes with the highest
first, and a zlib stream; the next record follows at once. The content is a vector of strings in R's
XDR serialization. The novel is the fifth record, and each of its strings is a line.
"""

import struct
import sys
import zlib

RECORD = 4
# The type of a vector of strings, of a string, and the length of a string that is missing.
STRINGS, STRING, MISSING = 16, 9, -1


class Damaged(Exception):
    """The file is not what it should be."""


class Reader:
    """Numbers and bytes of a serialization, one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        if length < 0 or length > len(self.data) - self.at:
            raise Damaged(f"{length} bytes are needed at byte {self.at} of {len(self.data)}")
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self):
        return struct.unpack(">i", self.take(4))[0]


def record(file, index):
    """Returns the content of a record."""
    content = b""
    for number in range(index + 1):
        if len(file) < 4:
            raise Damaged(f"there are {number} records, and record {index} is needed")
        (length,) = struct.unpack(">I", file[:4])
        stream = zlib.decompressobj()
        content = stream.decompress(file[4:], length + 1)
        if not stream.eof or len(content) != length:
            raise Damaged(f"record {number} does not have the {length} bytes that it states")
        file = stream.unused_data
    return content


def strings(content):
    """Yields the strings of a serialized vector of strings."""
    reader = Reader(content)
    if reader.take(2) != b"X\n":
        raise Damaged("the record is no XDR serialization")
    version, _writer, _oldest = reader.number(), reader.number(), reader.number()
    if version == 3:
        # The name of the encoding.
        reader.take(reader.number())
    if reader.number() & 0xFF != STRINGS:
        raise Damaged("the record is no vector of strings")
    for _ in range(reader.number()):
        if reader.number() & 0xFF != STRING:
            raise Damaged(f"there is no string at byte {reader.at}")
        length = reader.number()
        yield b"" if length == MISSING else reader.take(length)


def main(source, out):
    with open(source, "rb") as file:
        text = b"".join(line + b"\n" for line in strings(record(file.read(), RECORD)))
    with open(out, "wb") as file:
        file.write(text)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__.split("\n\n")[1])
    try:
        main(*sys.argv[1:])
    except (Damaged, zlib.error, OSError) as error:
        sys.exit(f"pride.py: {sys.argv[1]}: {error}")
