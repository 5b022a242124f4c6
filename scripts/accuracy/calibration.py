#!/usr/bin/env python3
"""Writes the calibration text of the accuracy figures: paragraphs of "Pride and Prejudice", one a line.

usage: calibration.py [--count N] [--tokenizer tokenizer.json] data/pride/pride.txt OUT.txt

A paragraph is the lines between two empty ones. Of those that are longer than 250 characters, the first 20 are left
out and the next 96 are written, or N of them. A model reads the first 128 tokens of each. With `--tokenizer`, which
needs the Python package tokenizers 0.22 or later, these tokens are counted; with MiniLM's tokenizer they are 10,042.
"""

import argparse
import sys
from pathlib import Path

LONGER_THAN, SKIPPED, COUNT, TOKENS = 250, 20, 96, 128


def paragraphs(text, count=COUNT):
    """Returns the paragraphs, each in one line."""
    joined = (" ".join(lines.split()) for lines in text.split("\n\n"))
    long = [paragraph for paragraph in joined if len(paragraph) > LONGER_THAN]
    return long[SKIPPED : SKIPPED + count]


def tokens(tokenizer, lines):
    """Returns how many tokens a model reads."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer)
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    return sum(len(tokenizer.encode(line).ids) for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--tokenizer")
    parser.add_argument("novel", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    lines = paragraphs(args.novel.read_text(encoding="ascii"), args.count)
    if len(lines) < args.count:
        sys.exit(f"calibration.py: {args.novel} has {len(lines)} paragraphs, and {args.count} are needed")
    args.out.write_text("".join(line + "\n" for line in lines), encoding="ascii")
    if args.tokenizer:
        print(f"{len(lines)} paragraphs, {tokens(args.tokenizer, lines)} tokens")


if __name__ == "__main__":
    main()
