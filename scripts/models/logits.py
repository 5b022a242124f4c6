"""Compares logits that `lowbit perplexity --logits` wrote with those of transformers in f32.

usage: logits.py FILE.gguf TEXT LOGITS.npy

transformers turns the weights of the GGUF file into f32 and makes one forward pass of as many tokens as
LOGITS.npy has rows, from the start of TEXT. The script prints a line of JSON, and fails where fewer than
99.5 % of the most likely tokens agree, or the mean of KL(transformers || lowbit) exceeds 1e-4 nats.
"""

import json
import os
import sys

import numpy
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

LEAST_AGREEMENT = 0.995
MOST_DIVERGENCE = 1e-4


def log_softmax(logits):
    logits = logits.astype(numpy.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(axis=1, keepdims=True))


def reference(path, text, rows):
    folder, name = os.path.split(path)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # Tokens of English have some four characters; ten times as many are enough.
    tokens = tokenizer(text[: 40 * rows], add_special_tokens=False)["input_ids"][:rows]
    assert len(tokens) == rows, f"the text has {len(tokens)} tokens, and {rows} are needed"
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


def main(path, text, logits):
    ours = numpy.load(logits)
    with open(text, encoding="utf-8", newline="") as file:
        theirs = reference(path, file.read(), len(ours))
    assert ours.shape == theirs.shape, f"{ours.shape} and {theirs.shape} differ"
    agreement = float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
    p, q = log_softmax(theirs), log_softmax(ours)
    divergence = float((numpy.exp(p) * (p - q)).sum(axis=1).mean())
    largest = float(numpy.abs(ours - theirs).max())
    print(json.dumps({"tokens": len(ours), "top1_agreement": agreement, "mean_kl_nats": divergence,
                      "largest_difference": largest}))
    return agreement >= LEAST_AGREEMENT and divergence <= MOST_DIVERGENCE


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
