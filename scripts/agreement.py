#!/usr/bin/env python3
"""How many predictions of two runs of `oc-cli eval` on the same questions are equal, and which are not.

    scripts/agreement.py RUN_FOLDER RUN_FOLDER [PERCENT]

Exit status 1 if fewer than PERCENT (98) are. Standard library only.
"""

import json
import sys
from pathlib import Path


def predictions(run):
    """`{(file, question): (prompt, prediction)}`"""
    files = sorted(Path(run).glob('predictions/*/*.json'))
    rows = {file.stem: json.loads(file.read_text(encoding='utf-8')) for file in files}
    return {(stem, key): (row['origin_prompt'], row['prediction']) for stem, all in rows.items() for key, row in all.items()}


def main():
    ours, theirs = (predictions(run) for run in sys.argv[1:3])
    percent = float(sys.argv[3]) if len(sys.argv) > 3 else 98.0
    if not ours or ours.keys() != theirs.keys():
        sys.exit(f'the runs hold different questions: {len(ours)} and {len(theirs)}')
    equal = 0
    for key, (prompt, prediction) in ours.items():
        if prompt != theirs[key][0]:
            sys.exit(f'{key}: the prompts differ')
        if prediction == theirs[key][1]:
            equal += 1
        else:
            print(f'{key[0]} {key[1]}: {prediction!r} and {theirs[key][1]!r}')
    print(f'{equal} of {len(ours)} predictions are equal, {100 * equal / len(ours):.1f} %')
    sys.exit(100 * equal < percent * len(ours))


if __name__ == '__main__':
    main()
