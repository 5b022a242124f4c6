#!/usr/bin/env python3
"""Writes the expected tokens and chat texts of crates/lowbit-models/tests/text/.

usage: write.py [models] [shapes] [splits] [sentence_piece]    (default: all)

They are what `transformers` makes of the GGUF files in data/smollm2 and data/qwen2.5-coder and of the chat
templates below, what llama.cpp makes of the ways to split text, and what `sentencepiece` makes of a small
model that is trained here on data/pride. Needs the Python packages transformers 5.24, gguf 0.19, jinja2
3.1, xllamacpp 2026.10 and sentencepiece 0.2.
"""

import io
import json
import random
import sys
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


# Templates in the manner of well-known models, and one of what Python and Jinja write.
SHAPES = {
    "instructions in brackets": """
{%- if messages[0]['role'] == 'system' %}
    {%- set rules = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rules = '' %}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns, starting with ' ~ rest[0].role) }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- bos_token + '[INST] ' + (rules if loop.first else '') + message.content.strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' ~ message.content.strip() ~ ' ' ~ eos_token }}
    {%- endif %}
{%- endfor %}
""",
    "no rules, the model is a role": """{{ bos_token }}
{% if messages[0].role == "system" %}
    {{ raise_exception("there is no role system here") }}
{% endif %}
{% for message in messages %}
    {% set role = "model" if message["role"] == "assistant" else message["role"] %}
{{ "<turn>" + role + "\\n" + message["content"] | trim + "</turn>\\n" }}
{% endfor %}
{% if add_generation_prompt %}
{{ "<turn>model\\n" }}
{%- endif %}
""",
    "headers, macros and a namespace": """
{%- macro head(role, end='\\n\\n') -%}
<|head|>{{ role | upper }}<|/head|>{{ end }}
{%- endmacro -%}
{%- set state = namespace(seen=0, last=none) -%}
{%- if not date is defined %}{% set date = '1 Jan 2020' %}{% endif -%}
{{- bos_token }}{{ head('system') }}Date: {{ date }}
{% if tools is not none and tools %}tools{% endif %}
{%- for message in messages -%}
    {%- if message.role not in ['user', 'assistant'] %}{% continue %}{% endif -%}
    {%- set state.seen = state.seen + 1 -%}
    {%- set state.last = message -%}
    {{- head(role=message.role) }}{{ message['content'] | trim }}{{ eos_token }}
{%- endfor %}
{%- if state.last is not none and state.last.role == 'user' and add_generation_prompt -%}
    {{ head('assistant', end='\\n') }}
{%- endif %} {{ state.seen }} of {{ messages | length }}
""",
    "what Python writes": """{% for message in messages[::-1] %}
{{ loop.last }} {{ none }} {{ loop.index / 2 }} {{ 7 // 2 }} {{ message.content | tojson }}
{{ {"b": [1, 2.5, none, true], "a": {"x": message.role}} | tojson }} {{ {"k": [1]} | tojson(indent=2) }}
{{ message.content.startswith(' ') }} {{ message.role.endswith(('er', 'em')) }} {{ 'e' in message.role }}
{{ message.content.split(' ')[-1] }}|{{ message.content.lstrip() }}|{{ message.get('name', 'nobody') }}
{{ message.missing }}{{ message.role.title() }} {{ message.role.replace('s', 'z') }} {{ message | length }}
{% for key, value in message.items() %}{{ key }}={{ value | length }};{% endfor %}

{% if loop.index == 2 %}{% break %}{% endif %}
{% endfor %}
{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{- range(3) | list }} {{ 'x' * 3 }} {{ [1, 2] + [3] }} {{ "%s-%d" | format("a", 5) }} {{ 'a' is string }}
""",
}


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


def shapes():
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    cases = []
    for name, template in SHAPES.items():
        for messages in CHATS:
            for prompt in (False, True):
                case = {"template": name, "messages": messages, "prompt": prompt}
                try:
                    case["text"] = render_jinja_template(
                        [messages],
                        chat_template=template,
                        add_generation_prompt=prompt,
                        bos_token="<s>",
                        eos_token="</s>",
                    )[0][0]
                except TemplateError as error:
                    case["refused"] = str(error)
                cases.append(case)
    write("chats.json", {"templates": SHAPES, "cases": cases})


def splits():
    """The tokens of llama.cpp for the ways to split text, with the vocabulary of SmolLM2."""
    import tempfile

    import gguf

    reader = gguf.GGUFReader(ROOT / "data/smollm2" / MODELS["smollm2"])

    def field(key):
        return reader.fields["tokenizer.ggml." + key].contents()

    found = {}
    for pre in ["gpt-2", "smollm", "qwen2", "llama-bpe", "default"]:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/model.gguf"
            tiny_llama(path, lambda writer: byte_level(writer, field, pre), len(field("tokens")))
            found[pre] = llama_cpp(path, texts())
    write("splits.json", {"splits": list(found.items())})


def tiny_llama(path, tokenizer, vocab):
    """Writes a model of one layer, so that llama.cpp reads its tokenizer."""
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(32)
    writer.add_vocab_size(vocab)
    tokenizer(writer)
    square = numpy.zeros((32, 32), dtype=numpy.float32)
    writer.add_tensor("token_embd.weight", numpy.zeros((vocab, 32), dtype=numpy.float32))
    writer.add_tensor("output_norm.weight", square[0])
    for name in ["attn_norm", "ffn_norm"]:
        writer.add_tensor(f"blk.0.{name}.weight", square[0])
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]:
        writer.add_tensor(f"blk.0.{name}.weight", square)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def byte_level(writer, field, pre):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(field("tokens"))
    writer.add_token_types(field("token_type"))
    writer.add_token_merges(field("merges"))
    writer.add_bos_token_id(field("bos_token_id"))
    writer.add_eos_token_id(field("eos_token_id"))


def llama_cpp(path, texts):
    """Returns the tokens that llama.cpp gives each text."""
    import urllib.request

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = 64
    params.n_gpu_layers = 0
    params.warmup = False
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    ids = []
    for text in texts:
        body = {"content": text, "add_special": False, "parse_special": True}
        request = urllib.request.Request(
            server.listening_address + "/tokenize",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        ids.append(json.load(urllib.request.urlopen(request))["tokens"])
    return ids


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
    for part in sys.argv[1:] or ["models", "shapes", "splits", "sentence_piece"]:
        globals()[part]()
