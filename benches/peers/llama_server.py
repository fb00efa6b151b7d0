#!/usr/bin/env python3
"""Times llama.cpp's `llama-server` on the prompts of our own job.

    oc-cli prompt --datasets ceval_gen --subjects law --all --jsonl --hf-path MODEL.gguf > prompts.jsonl
    llama_server.py --server bin/llama-server --model MODEL.gguf --prompts prompts.jsonl

Sends the token ids of `prompts.jsonl`, so both sides compute exactly the same prompts; subject after subject, `--slots`
requests at a time, greedy, `--max-out-len` tokens. Starts a fresh server for every run (its prompt cache outlives a
request) and stops it afterwards. The clock covers the requests, not the loading of the model. Prints one JSON object.
Standard library only.
"""
import argparse
import concurrent.futures
import itertools
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request


def post(port, path, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3600) as reply:
        return json.load(reply)


def start_server(args, port):
    command = [args.server, "-m", args.model, "-t", str(args.threads), "-np", str(args.slots), "-c", str(args.context),
               "-fa", "on", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
            return server
        except (urllib.error.URLError, ConnectionError):
            if server.poll() is not None:
                sys.exit(f"{args.server} ended with code {server.returncode}; to see why, run\n{' '.join(command)}")
            time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="the llama-server program")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--prompts", required=True, help="what `oc-cli prompt --all --jsonl` printed with this model")
    parser.add_argument("--max-out-len", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, default=4, help="requests at a time")
    parser.add_argument("--context", type=int, default=16384, help="tokens of all slots together")
    parser.add_argument("--no-cache", action="store_true", help="recompute every prompt from its first token")
    parser.add_argument("--predictions", help="also write the predicted texts here, one JSON object a line")
    args = parser.parse_args()

    with open(args.prompts, encoding="utf-8") as lines:
        samples = [json.loads(line) for line in lines]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = start_server(args, port)

    def ask(sample):
        return post(port, "/completion", {
            "prompt": sample["ids"], "n_predict": args.max_out_len, "temperature": 0.0,
            "cache_prompt": not args.no_cache,
        })

    try:
        replies = []
        started = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(args.slots) as pool:
            for _, group in itertools.groupby(samples, key=lambda s: s["subject"]):
                replies += pool.map(ask, group)
        seconds = time.perf_counter() - started
    finally:
        server.terminate()
        server.wait()
    if args.predictions:
        with open(args.predictions, "w", encoding="utf-8") as out:
            for sample, reply in zip(samples, replies):
                row = {"subject": sample["subject"], "index": sample["index"], "prediction": reply["content"]}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(json.dumps({
        "model": args.model, "threads": args.threads, "slots": args.slots, "cache": not args.no_cache,
        "questions": len(samples), "seconds": round(seconds, 3),
        "prompt_tokens": sum(len(s["ids"]) for s in samples),
        "computed_prompt_tokens": sum(r["timings"]["prompt_n"] for r in replies),
        "generated_tokens": sum(r["tokens_predicted"] for r in replies),
    }))


if __name__ == "__main__":
    main()
