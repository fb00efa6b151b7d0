#!/usr/bin/env python3
"""Opens what `oc-cli convert` writes in Hugging Face's own libraries.

    python scripts/converted_folders.py OC_CLI [SHARED]

Needs torch, transformers, tokenizers, sentencepiece and protobuf (versions in tests/fixtures/README.md). Every tiny checkpoint
whose class transformers has is converted, and has to give the logits and the ids of its reference there. Every SentencePiece
model that becomes a `tokenizer.json` has to give the ids and the text of the `sentencepiece` library in `tokenizers`: on
mixtures of words, spaces, symbols and odd characters, and, with SHARED (which holds `data/internlm` and `data/ceval`), for
InternLM's model too and on all of C-Eval. Exit status 1 if anything differs.
"""

import csv
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import sentencepiece
import tokenizers
import torch
import transformers

FIXTURES = Path(__file__).parent.parent / 'tests/fixtures'
MODELS = ['llama', 'llama-tied', 'llama-linear', 'llama-q8_0', 'llama-k', 'qwen2', 'qwen2-mixed', 'internlm2-q8_0',
          'opt', 'opt-post', 'opt-bare']
SENTENCEPIECE = ['llama', 'symbols', 'prefixed', 'collapsed', 'unescaped']
TEXTS = 60_000
# The sentencepiece library knows none of these in a text.
SPECIAL = ['<s>', '</s>', '<unk>']
PARTS = """the of water boils mountain ▁the th e t sound wave question 水 的 沸点 压力 三角形 f(x)=x^2 naïve Straße ﬁne ½ ＡＢＣ ①
▁ ▁▁ 🙂 👩‍👩‍👧 é 한국어 A. <eoh> <eoa> <|im_start|> [MASK] <0x41> <0x0A> aaaa aa == = === [UNUSED_TOKEN_1] [UNUSED 1234
ß $$ < <e eoh> aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa""".split()
PARTS += [' ', '  ', '   ', '\n', '\t', '\u3000', '\u00a0', '\u200b', '\0', '\x07', 'e\u0301', '\u0301', '\U0010fffd']


def convert(oc_cli, source, target):
    done = subprocess.run([oc_cli, 'convert', source, target], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f'{source}: {done.stderr}')


def logits_differ(name, folder):
    """Whether a converted model's logits or ids are not those of its reference."""
    reference = json.loads((FIXTURES / f'{name}.reference.json').read_text(encoding='utf-8'))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    errors = []
    for prompt in reference['prompts']:
        for wanted in prompt['logits']:
            ids = torch.tensor([prompt['ids'][:wanted['position'] + 1]])
            with torch.no_grad():
                found = model(ids).logits[0, -1].double()
            values = torch.tensor(wanted['values'], dtype=torch.float64)
            errors.append(((found[:len(values)] - values).abs().max() / values.abs().max()).item())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [row for row in reference['encodings'] if tokenizer(row['text'])['input_ids'] != row['ids']]
    print(f'{name}: logits differ by {max(errors):.1e} at most, ids of {len(texts)} texts of {len(reference["encodings"])}')
    return not all(error <= 1e-4 for error in errors) or bool(texts)


def some_texts():
    rng = random.Random(7)
    for _ in range(TEXTS):
        glue = rng.choice(['', '', ' ', '  ', '\n'])
        yield glue.join(rng.choice(PARTS) for _ in range(rng.randint(1, 12)))


def ceval(shared):
    for file in sorted((shared / 'data/ceval/formal_ceval').glob('*/*.csv')):
        with open(file, encoding='utf-8', newline='') as lines:
            for row in csv.reader(lines):
                yield from row


def ids_differ(name, model, folder, texts):
    """Whether a `tokenizer.json` gives other ids, or other text, than the SentencePiece model it was made of."""
    own = sentencepiece.SentencePieceProcessor(model_file=str(model))
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
    compared, different = 0, []
    for text in texts:
        if any(token in text for token in SPECIAL):
            continue
        ids = own.encode(text)
        compared += 1
        # Unknown pieces are written as a sign by the one, and left out by the other.
        if tokenizer.encode(text, add_special_tokens=False).ids != ids or (
                own.unk_id() not in ids and tokenizer.decode(ids) != own.decode(ids)):
            different.append(text)
    print(f'{name}: {compared} texts, {len(different)} differ', *map(repr, different[:3]))
    return bool(different)


def main():
    oc_cli = str(Path(sys.argv[1]).resolve())
    shared = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    models = {name: FIXTURES / f'sentencepiece/{name}.model' for name in SENTENCEPIECE}
    texts = list(some_texts())
    if shared:
        models['internlm'] = shared / 'data/internlm/tokenizer.model'
        texts += ceval(shared)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            source = FIXTURES / name
            target = Path(folder) / name
            convert(oc_cli, source if source.is_dir() else FIXTURES / f'{name}.gguf', target)
            failed |= logits_differ(name, target)
        for name, model in models.items():
            source, target = Path(folder) / f'{name}-model', Path(folder) / f'{name}-json'
            convert(oc_cli, FIXTURES / 'llama-tied', source)
            (source / 'tokenizer.json').unlink()
            (source / 'tokenizer_config.json').unlink()
            shutil.copy(model, source / 'tokenizer.model')
            convert(oc_cli, source, target)
            failed |= ids_differ(f'{name}.model', model, target, texts)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
