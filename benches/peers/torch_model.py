#!/usr/bin/env python3
"""Times transformers on the prompts of our own job, asked as OpenCompass asks them, with random weights.

    oc-cli prompt --datasets ceval_gen --all --jsonl … > gen.jsonl        (and ceval_ppl > ppl.jsonl)
    torch_model.py FOLDER --gen gen.jsonl --ppl ppl.jsonl

FOLDER holds the `config.json` of an InternLM2 or a LLaMA; the former is the latter with other names. `gen`: batches in the
order of the prompts, padded on the left, greedy, `--max-out-len` tokens, keys and values in a static cache. `ppl`: every
choice's whole prompt, padded on the right, one pass a batch, cross-entropies in float32. bfloat16, SDPA. `--questions` takes so
many, evenly spread over the subjects, and gives the time of all by the tokens of their prompts. The clock covers what follows
the loading and one batch to warm up. Prints one JSON object. Needs torch and transformers.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers

KEPT = ['hidden_size', 'intermediate_size', 'num_attention_heads', 'num_key_value_heads', 'num_hidden_layers', 'vocab_size',
        'max_position_embeddings', 'rms_norm_eps', 'rope_theta', 'tie_word_embeddings', 'bos_token_id', 'eos_token_id']


def load(folder, device):
    config = json.loads((Path(folder) / 'config.json').read_text(encoding='utf-8'))
    kept = {key: config[key] for key in KEPT if key in config}
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = transformers.LlamaForCausalLM._from_config(
            transformers.LlamaConfig(**kept, pad_token_id=0), attn_implementation='sdpa', torch_dtype=torch.bfloat16)
    return model.eval()


def padded(batch, side, device):
    longest = max(map(len, batch))
    place = (lambda ids, pad: pad + ids) if side == 'left' else (lambda ids, pad: ids + pad)
    ids = [place(ids, [0] * (longest - len(ids))) for ids in batch]
    mask = [place([1] * len(ids), [0] * (longest - len(ids))) for ids in batch]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def generate(model, batch, args):
    ids, mask = padded(batch, 'left', args.device)
    with torch.inference_mode():
        # The answers mean nothing: all have full length.
        out = model.generate(ids, attention_mask=mask, max_new_tokens=args.max_out_len, min_new_tokens=args.max_out_len,
                             do_sample=False, cache_implementation='static')
    return out[:, ids.shape[1]:].cpu()


def perplexities(model, batch, args):
    ids, mask = padded(batch, 'right', args.device)
    with torch.inference_mode():
        logits = model(ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction='none')
        return ((losses * mask[:, 1:]).sum(1) / mask.sum(1)).cpu()


def questions(file, wanted):
    """Prompts of some questions, evenly spread, and how many tokens all have for each token of these."""
    with open(file, encoding='utf-8') as lines:
        rows = [json.loads(line) for line in lines]
    of_question = {}
    for row in rows:
        of_question.setdefault((row['subject'], row['index']), []).append(row['ids'])
    every = list(of_question.values())
    some = every if wanted >= len(every) else [every[i * len(every) // wanted] for i in range(wanted)]
    tokens = lambda many: sum(len(ids) for prompts in many for ids in prompts)
    return [ids for prompts in some for ids in prompts], len(some), len(every), tokens(every) / tokens(some)


def timed(model, ask, file, args):
    prompts, some, every, factor = questions(file, args.questions)
    batches = [prompts[i:i + args.batch_size] for i in range(0, len(prompts), args.batch_size)]
    ask(model, batches[0], args)
    wait = torch.cuda.synchronize if args.device == 'cuda' else (lambda: None)
    wait()
    start = time.perf_counter()
    for batch in batches:
        ask(model, batch, args)
    wait()
    seconds = time.perf_counter() - start
    return {'questions': some, 'seconds': seconds, 'all_questions': every, 'seconds_for_all': seconds * factor}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', help='holds config.json')
    parser.add_argument('--gen', help='what `oc-cli prompt --all --jsonl` printed')
    parser.add_argument('--ppl', help='the same for the perplexities')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--max-out-len', type=int, default=16)
    parser.add_argument('--questions', type=int, default=208)
    parser.add_argument('--device', default='cuda')
    args = parser.parse_args()
    torch.manual_seed(0)
    model = load(args.folder, args.device)
    found = {'torch': torch.__version__, 'transformers': transformers.__version__, 'batch_size': args.batch_size}
    for name, ask, file in [('gen', generate, args.gen), ('ppl', perplexities, args.ppl)]:
        if file:
            found[name] = timed(model, ask, file, args)
    print(json.dumps(found, indent=1))


if __name__ == '__main__':
    main()
