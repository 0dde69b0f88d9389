"""Compares lm-eval's scores from `kd serve` with kd's own for the same model.

  python -m experiments.lm_eval_270m.run MODEL GSM8K FOLDER [EXAMPLES]

MODEL is a folder for transformers, such as an export, whose tokenizer both
read. GSM8K is a file with its problems. lm-eval runs in KD_ORACLES_PYTHON, as
its users run it: with the model `local-completions` and tasks in YAML and JSON
lines, which are written to FOLDER. It requests answers to problems (exact match
of the number) and the most likely of a few numbers (multiple choice). kd
computes both without a server. Writes results.json to FOLDER; the exit code is
1 if an answer or a choice differs.
"""

import glob
import json
import os
import re
import subprocess
import sys
import time
from typing import Any
import urllib.error
import urllib.request

import numpy as np

import kd
from kd.core import atomic_files

_NEW_TOKENS = 64
_NUMBER = re.compile(r'-?[0-9][0-9,]*')
_STOPS = ('\n\n', 'Question:')
_SHOTS = 2  # Worked problems before each question.

_COMMON = """\
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
metadata:
  version: 1
"""
_GENERATE = """\
task: local_gsm8k
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{number}}}}"
generation_kwargs:
  until: {stops}
  do_sample: false
  max_gen_toks: {tokens}
filter_list:
  - name: last-number
    filter:
      - function: regex
        regex_pattern: "(-?[0-9][0-9,]*)"
        group_select: -1
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    regexes_to_ignore: [","]
"""
_CHOOSE = """\
task: local_choice
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_target: "{{gold}}"
doc_to_choice: "{{choices}}"
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def _problems(path: str, count: int) -> list[dict[str, Any]]:
  """Returns problems with a prompt, the right number and the choices."""
  with open(path, encoding='utf-8') as f:
    rows = [json.loads(next(f)) for _ in range(_SHOTS + count)]
  clean = lambda answer: re.sub(r'<<.*?>>', '', answer)
  shown = lambda row: f'Question: {row["question"]}\nAnswer:'
  shots = ''.join(
    f'{shown(row)} {clean(row["answer"])}\n\n' for row in rows[:_SHOTS]
  )
  rng, problems = np.random.default_rng(0), []
  for row in rows[_SHOTS:]:
    number = row['answer'].rpartition('#### ')[2].replace(',', '')
    wrong = [str(int(number) + int(x)) for x in rng.choice([-7, -3, 2, 10], 3)]
    choices = list(dict.fromkeys([number, *wrong]))
    rng.shuffle(choices)
    problems.append(
      {
        'prompt': shots + shown(row),
        'number': number,
        'choices': [f' {x}' for x in choices],
        'gold': choices.index(number),
      }
    )
  return problems


def _write_tasks(folder: str, problems: list[dict[str, Any]]) -> None:
  file = os.path.join(folder, 'problems.jsonl')
  with open(file, 'w', encoding='utf-8') as f:
    f.writelines(json.dumps(problem) + '\n' for problem in problems)
  common = _COMMON.format(file=file)
  generate = _GENERATE.format(stops=json.dumps(_STOPS), tokens=_NEW_TOKENS)
  for name, text in (('generate', generate), ('choose', _CHOOSE)):
    with open(os.path.join(folder, f'{name}.yaml'), 'w', encoding='utf-8') as f:
      f.write(text + common)


def _served(model: str, folder: str) -> tuple[subprocess.Popen, int]:
  """Starts the server; returns it and its port once it is ready."""
  log = os.path.join(folder, 'server.log')
  with open(log, 'w', encoding='utf-8') as f:
    server = subprocess.Popen(
      [
        *(sys.executable, '-m', 'kd', 'serve', f'model={model}'),
        *('--config.serve.port=0', '--config.serve.max_batch=1'),
        *('--config.serve.max_length=1024', '--config.serve.queue=1000'),
        '--config.serve.timeout_ms=600000',
      ],
      stdout=f,
      stderr=subprocess.STDOUT,
    )
  port = None
  while server.poll() is None:
    with open(log, encoding='utf-8') as f:
      found = re.findall(r'listening on http://\S+:(\d+)', f.read())
    if found:
      port = int(found[0])
      try:
        urllib.request.urlopen(f'http://127.0.0.1:{port}/health')
        return server, port
      except urllib.error.HTTPError:
        pass  # 503: programs are still being compiled.
    time.sleep(1)
  raise SystemExit(f'the server has ended: see {log}')


def _harness(model: str, port: int, folder: str) -> dict[str, list[Any]]:
  """Runs lm-eval; returns its samples by task."""
  arguments = {
    'model': 'model',
    'base_url': f'http://127.0.0.1:{port}/v1/completions',
    'tokenizer': os.path.abspath(model),
    'add_bos_token': True,
    'max_length': 1024,
    'num_concurrent': 1,
    'timeout': 3600,
  }
  subprocess.run(
    [
      *(os.environ['KD_ORACLES_PYTHON'], '-m', 'lm_eval', 'run'),
      *('--model', 'local-completions', '--batch_size', '1'),
      '--model_args',
      ','.join(f'{k}={v}' for k, v in arguments.items()),
      *('--tasks', 'local_gsm8k,local_choice', '--include_path', folder),
      *('--output_path', folder, '--log_samples'),
    ],
    check=True,
    env={
      **os.environ,
      'OPENAI_API_KEY': 'none',
      'HF_HUB_OFFLINE': '1',
      'HF_DATASETS_CACHE': os.path.join(folder, 'cache'),
    },
  )
  samples = {}
  for task in ('local_gsm8k', 'local_choice'):
    pattern = os.path.join(folder, '**', f'samples_{task}_*.jsonl')
    with open(max(glob.glob(pattern, recursive=True)), encoding='utf-8') as f:
      lines = [json.loads(line) for line in f]
    samples[task] = sorted(lines, key=lambda line: line['doc_id'])
  return samples


def _ours(model: str, problems: list[dict[str, Any]]) -> dict[str, list[Any]]:
  """Returns kd's answers and its log-probabilities of the choices."""
  loaded = kd.load(model, template='plain')
  answers = loaded.generate(
    [problem['prompt'] for problem in problems],
    max_new_tokens=_NEW_TOKENS,
    stop_strings=_STOPS,
    batch_size=4,
  )
  choices = []
  for problem in problems:
    texts = [problem['prompt'] + choice for choice in problem['choices']]
    before, *after = loaded.score([problem['prompt'], *texts], batch_size=4)
    choices.append([before.nll - score.nll for score in after])
  return {'answers': [a[0].text for a in answers], 'choices': choices}


def _exact(text: str, number: str) -> bool:
  found = _NUMBER.findall(text)
  return bool(found) and found[-1].replace(',', '') == number


def main(model: str, gsm8k: str, folder: str, examples: str = '16') -> None:
  """Runs lm-eval and kd, and compares their answers and scores."""
  folder = os.path.abspath(folder)
  os.makedirs(folder, exist_ok=True)
  problems = _problems(gsm8k, int(examples))
  _write_tasks(folder, problems)
  server, port = _served(model, folder)
  try:
    theirs = _harness(model, port, folder)
  finally:
    server.terminate()
    server.wait()
  ours = _ours(model, problems)
  told = [line['resps'][0][0] for line in theirs['local_gsm8k']]
  # The response of each choice is [log-probability, whether it is greedy].
  scores = [
    [float(x[0][0]) for x in line['resps']] for line in theirs['local_choice']
  ]
  rights = lambda texts: [
    _exact(text, p['number']) for text, p in zip(texts, problems, strict=True)
  ]
  picks = lambda rows: [int(np.argmax(row)) for row in rows]
  gold = [p['gold'] for p in problems]
  results = {
    'examples': len(problems),
    'exact match': {
      'lm-eval': float(
        np.mean([line['exact_match'] for line in theirs['local_gsm8k']])
      ),
      'kd': float(np.mean(rights(ours['answers']))),
    },
    'multiple choice': {
      'lm-eval': float(
        np.mean([line['acc'] for line in theirs['local_choice']])
      ),
      'kd': float(np.mean(np.equal(picks(ours['choices']), gold))),
    },
    'answers that differ': [
      [one, other]
      for one, other in zip(told, ours['answers'], strict=True)
      if one != other
    ],
    'choices that differ': int(
      np.sum(np.not_equal(picks(scores), picks(ours['choices'])))
    ),
    'largest difference of a log-probability, nats': max(
      abs(x - y)
      for row, own in zip(scores, ours['choices'], strict=True)
      for x, y in zip(row, own, strict=True)
    ),
  }
  atomic_files.write_json(os.path.join(folder, 'results.json'), results)
  print(json.dumps(results, indent=2))
  sys.exit(
    bool(results['answers that differ'] or results['choices that differ'])
  )


if __name__ == '__main__':
  main(*sys.argv[1:])
