#!/usr/bin/env python3
"""Lets OpenCompass itself score and summarize what `oc-cli eval` answered, and compares every file with oc's.

    python scripts/opencompass_round_trip.py RUN_FOLDER...      e.g. outputs/default/20260102_030405

Run it with a Python that has OpenCompass 0.5.4 (`pip install opencompass==0.5.4`), in a folder whose `data` holds the
datasets as OpenCompass wants them. Each run folder is copied without its results and summaries; then OpenCompass's own
command does `-m eval -r` and `-m viz -r` on the copy, from the configuration that oc saved. Its results must be the
same JSON with the same keys in the same order, its tables the same text but for the time. Exit status 1 if anything differs.
Splits without labels do, on purpose: OpenCompass scores them 0, oc shows `no labels` and writes no results.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def opencompass(mode, config, stamp, work_dir):
    """One run of OpenCompass's command line."""
    command = [sys.executable, '-m', 'opencompass.cli.main', str(config), '-m', mode, '-r', stamp]
    command += ['-w', str(work_dir), '--debug']
    done = subprocess.run(command, env=dict(os.environ, PYTHONUTF8='1'), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f'OpenCompass -m {mode} failed with status {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}')


def table(text):
    """A summary without the time at its top."""
    first, _, rest = text.partition('\n')
    return rest if len(first) == 15 and first[8] == '_' else text


def newest(folder, ending):
    files = sorted(folder.glob(f'*{ending}'))
    return files[-1] if files else sys.exit(f'{folder} has no file *{ending}')


def compare(run):
    """The number of files compared, and what differs."""
    compared, wrong = 0, []
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, run.name)
        shutil.copytree(run / 'predictions', copy / 'predictions')
        config = newest(run / 'configs', '.py')
        opencompass('eval', config, run.name, scratch)
        ours = sorted((run / 'results').rglob('*.json'))
        theirs = sorted((copy / 'results').rglob('*.json'))
        if [p.relative_to(run) for p in ours] != [p.relative_to(copy) for p in theirs]:
            wrong.append(f'results: {len(ours)} files here, {len(theirs)} of OpenCompass')
        for mine, other in zip(ours, theirs):
            # Lists of pairs, so that the order of keys counts; numbers as they are written.
            read = [json.loads(p.read_text('utf-8'), object_pairs_hook=list, parse_float=str) for p in (mine, other)]
            compared += 1
            if read[0] != read[1]:
                wrong.append(f'{mine.relative_to(run)}: {str(read[0])[:300]}\n    OpenCompass: {str(read[1])[:300]}')
        # Once of the results that it computed, once of those that oc computed.
        for source in ('its own results', "oc's results"):
            for ending in ('.txt', '.csv', '.md'):
                mine, other = newest(run / 'summary', ending), newest(copy / 'summary', ending)
                compared += 1
                if table(mine.read_text('utf-8')) != table(other.read_text('utf-8')):
                    wrong.append(f'summary of {source}, {ending}:\n{mine.read_text("utf-8")}\n    OpenCompass:\n{other.read_text("utf-8")}')
            if source == 'its own results':
                shutil.rmtree(copy / 'results')
                shutil.rmtree(copy / 'summary')
                shutil.copytree(run / 'results', copy / 'results')
                opencompass('viz', config, run.name, scratch)
    return compared, wrong


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    failed = False
    for run in map(Path, sys.argv[1:]):
        compared, wrong = compare(run)
        print(f'{run}: {compared} files compared, {len(wrong)} differ')
        for one in wrong:
            print(f'  {one}')
        failed |= bool(wrong) or compared < 7
    sys.exit(failed)


if __name__ == '__main__':
    main()
