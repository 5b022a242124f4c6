#!/usr/bin/env python3
"""Writes the expected tokens and chat texts of crates/lowbit-models/tests/text/.

usage: write.py

They are what `transformers` makes of the GGUF files in data/smollm2 and data/qwen2.5-coder, and what
`sentencepiece` makes of a small model that is trained here on data/pride. Needs the Python packages
transformers 5.24, gguf 0.19, jinja2 3.1 and sentencepiece 0.2.
"""

import io
import json
import random
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "crates/lowbit-models/tests/text"

MODELS = {
    "smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "qwen2.5-coder": "Qwen2.5-Coder-0.5B-Instruct.gguf",
}

TEXTS = [
    "",
    " ",
    "a",
    "Hello, world!",
    "  two spaces before, three after   ",
    "tabs\tand\t\ttabs\n\nnew lines\r\n\r\n  indented\n",
    " \n \n\n\t \r\n",
    "x" + " " * 37 + "y" + "\n" * 9 + "z" + "\t" * 5,
    "non\u00a0breaking\u2003em\u3000wide spaces",
    "It's we'll they've I'm you'd don't WE'LL IT'S can’t",
    "0 1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F 1e-9 ½ Ⅷ ٣ ४५६",
    "In 1813, on page 42 of 100.",
    "naïve café Ünïcödé Straße ΑΒΓ αβγ Привет שלום مرحبا नमस्ते 你好,世界 こんにちは 안녕하세요",
    "e\u0301 cafe\u0301 (decomposed) ﬁ ﬂ",
    "🙂 👩‍👩‍👧‍👦 🇬🇧 ✨✨ 👍🏽 🤷‍♀️",
    "zero\u200bwidth\u200djoiner \ufeff bom � replacement",
    "def f(x: int) -> list[int]:\n    return [i ** 2 for i in range(x) if i % 2 == 0]\n",
    "fn main() {\n\tlet v: Vec<u8> = vec![0; 16];\n\tprintln!(\"{v:?}\");\n}\n",
    "<div class=\"a b\">&amp; <!-- c --></div> #include <stdio.h> $HOME/.bashrc ~/x_y-z.tar.gz",
    "{\"key\": [1, 2.5, null, true], \"s\": \"\\u00e9\\n\"}",
    "https://example.org/a?b=c&d=%20#e user@example.org",
    "!!! ??? ... --- ___ *** ((( ))) ;;; ::: ,,, ''' \"\"\" ``` ~~~ ||| \\\\\\ ^^^",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "<|im_start|><|im_start|> <|im_end|> x<|im_end|>y <|im_end <|im_end|>",
    "<file_sep>a<filename>b <repo_name> <tool_call>\n{}\n</tool_call><|fim_prefix|>",
]


def texts():
    """The texts above, some lines of the novel, and some paragraphs."""
    novel = (ROOT / "data/pride/pride.txt").read_text()
    lines = novel.splitlines()
    chosen = random.Random(15)
    some = [line for line in chosen.sample(lines, 12) if line]
    paragraphs = [part for part in novel.split("\n\n") if 400 < len(part) < 700]
    return TEXTS + some + chosen.sample(paragraphs, 3)


CHATS = [
    [{"role": "user", "content": "What is a scale?"}],
    [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "  Two spaces, and a new line\n"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Really? <b>&amp;</b> \"ünïcödé\" 🙂"},
    ],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ],
]


def write(name, value):
    """Writes an object with a line for each element of its lists."""
    fields = []
    for key, field in value.items():
        text = json.dumps(field, ensure_ascii=False)
        if isinstance(field, list):
            rows = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in field)
            text = "[\n" + ",\n".join(rows) + "\n]"
        fields.append(f"{json.dumps(key)}: {text}")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / name).write_text("{\n" + ",\n".join(fields) + "\n}\n")


def models():
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    for name, file in MODELS.items():
        tokenizer = AutoTokenizer.from_pretrained(ROOT / "data" / name, gguf_file=file)
        if name == "smollm2":
            # transformers does not read how a GGUF file splits text into words. The tokenizer.json of this
            # model takes each digit alone, as `smollm` says.
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )

        def encode(text):
            return tokenizer.encode(text, add_special_tokens=False)

        novel = (ROOT / "data/pride/pride.txt").read_text()
        chats = []
        for messages in CHATS:
            for prompt in (False, True):
                text = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=prompt
                )
                chats.append({"messages": messages, "prompt": prompt, "text": text})
        write(
            f"{name}.json",
            {
                "tokens_of_novel": len(encode(novel)),
                "cases": [{"text": text, "ids": encode(text)} for text in texts()],
                "chats": chats,
            },
        )


# Tokens wherever they appear. No text has them: llama.cpp puts a space after one, sentencepiece does not.
SYMBOLS = ["[INST]", "[/INST]"]


def sentence_piece():
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((ROOT / "data/pride/pride.txt").read_text().splitlines()[:2000]),
        model_writer=out,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        user_defined_symbols=SYMBOLS,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())

    def kind(i):
        if model.IsUnknown(i):
            return 2
        if model.IsControl(i):
            return 3
        if model.IsByte(i):
            return 6
        return 4 if model.IdToPiece(i) in SYMBOLS else 1

    tokens = [
        [model.IdToPiece(i), model.GetScore(i), kind(i)] for i in range(model.GetPieceSize())
    ]
    write(
        "sentence_piece.json",
        {
            "tokens": tokens,
            "cases": [{"text": text, "ids": model.EncodeAsIds(text)} for text in texts()],
        },
    )


if __name__ == "__main__":
    sentence_piece()
    models()
