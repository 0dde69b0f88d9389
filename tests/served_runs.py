"""Checks of runs with a served teacher; `kd serve` is the server."""

import fractions
import hashlib
import json
import pathlib

import jax
import numpy as np

from kd.config import base
from kd.input_pipeline import rows as rows_lib
from kd.modes import cache as cache_mode
from kd.modes import reason as reason_mode
from kd.reasoning.arithmetic import answers
from kd.run import resolve
from kd.run import source as source_lib
from kd.train import training_rows
from kd.train.feeds import cached
from tests import cache_runs
from tests import page_commands


def check_targets(port: int, tmp_path: pathlib.Path) -> None:
  """Compares a server's targets with those of the live teacher."""
  _, _, told, _, _ = page_commands.commands('docs/served_teachers.md')
  changes = {
    'cache.method': base.cache_method('top_k', entries=20, logprobs='float16'),
    'teacher.server.folder': str(tmp_path / 'served'),
    'teacher.server.url': f'http://127.0.0.1:{port}/v1',
  }
  live, batches = {'teacher.source': 'live', 'teacher.server.url': ''}, []
  for name, more in (('live', live), ('served', {})):
    config, _ = page_commands.parse(told)
    folder = tmp_path / name
    cache_runs.small(config, tmp_path, folder, **(changes | more))
    cache_mode.main(config, str(tmp_path / 'report'))
    run = resolve.resolve(config, jax.devices())
    rows = training_rows.prepare(run, lambda line: None)
    cache = cached.open_cache(run, rows)
    batches.append(cache.read(rows_lib.Numbered(rows)(range(cache_runs.ROWS))))
  # Training reuses the replies received for the cache.
  before = (tmp_path / 'served' / 'replies').read_bytes()
  opened = source_lib.of(config).open(run, rows)
  read = training_rows.read(run, rows)
  feed = source_lib.of(config).feed(run, read, 'digest', opened, None)
  batch, targets = feed.read(0)
  opened.close()
  assert (tmp_path / 'served' / 'replies').read_bytes() == before
  batches += [cache.read(batch), targets]
  for a, b in (batches[:2], batches[2:]):
    np.testing.assert_array_equal(a.ids, b.ids)
    used = a.ids >= 0
    assert used.any() and (used.sum(-1) % 20 == 0).all()
    likely = used & (a.logprobs > -12)
    logprobs = a.logprobs[likely], b.logprobs[likely]
    np.testing.assert_allclose(*logprobs, atol=6e-3)
    tails = np.exp(a.tail_logprob), np.exp(b.tail_logprob)
    np.testing.assert_allclose(*tails, atol=2e-5)


def check_answers(port: int, tmp_path: pathlib.Path) -> None:
  """Generates answers with the server and prepares rows of them."""
  _, _, _, asked, trained = page_commands.commands('docs/served_teachers.md')
  config, _ = page_commands.parse(asked)
  config.update_from_flattened_dict(
    {
      'reasoning.count': 12,
      'reasoning.samples': 6,  # The server returns 4 per request.
      'reasoning.max_new_tokens': 40,
      'reasoning.temperature': 1.5,
      'reasoning.concurrency': 5,
      'teacher.server.concurrency': 2,
      'teacher.server.attempts': 50,
      'teacher.server.wait_s': 0.1,
      'teacher.server.url': f'http://127.0.0.1:{port}/v1',
    }
  )
  reason_mode.main(config, str(tmp_path))
  folder = tmp_path / 'traces'
  lines = (folder / 'samples.jsonl').read_bytes().splitlines()
  samples = [json.loads(line) for line in lines]
  kept = [json.loads(x) for x in (folder / 'traces.jsonl').open()]
  assert len(samples) == 12 and kept
  for record in samples:
    assert len(record['samples']) == 6 and len(record['replies']) == 2
    numbers = [answers.extract(s['text']).value for s in record['samples']]
    best = [t['answer'] for t in kept if t['problem'] == record['id']]
    assert all(
      2 * numbers.count(fractions.Fraction(x)) >= len(numbers) for x in best
    )
  told = json.loads((folder / 'provenance.json').read_text())
  assert told['source']['endpoint'] == config.teacher.server.url
  assert told['replies']['models'] == {'tiny': 24}
  assert told['counts']['accepted'] == len(kept)
  assert told['counts']['accepted'] + told['counts']['rejected'] == 72
  digest = hashlib.sha256((folder / 'samples.jsonl').read_bytes()).hexdigest()
  assert told['sha256']['samples.jsonl'] == digest
  # The kept replies suffice without samples and without a server.
  (folder / 'samples.jsonl').unlink()
  config.teacher.server.model = 'tiny'
  config.teacher.server.budget.requests = 1
  reason_mode.main(config, str(tmp_path))
  again = [json.loads(line) for line in (folder / 'samples.jsonl').open()]
  assert again == samples
  config, _ = page_commands.parse(trained)
  config.data.mixture = str(folder / 'traces.jsonl')
  config.data.folder = str(tmp_path / 'rows')
  run = resolve.resolve(config, jax.devices())
  rows = training_rows.prepare(run, lambda line: None)
  batch = rows_lib.Rows(rows, 1, 0, shuffle=False, rates='examples')(0, [0])
  texts = [
    run.tokenizer.decode(batch.tokens[0][batch.segment_ids[0] == i].tolist())
    for i in range(1, 1 + min(3, len(kept)))
  ]
  wanted = {trace['inputs'] + trace['targets'] for trace in kept}
  assert {text.strip() for text in texts} <= {x.strip() for x in wanted}, texts
