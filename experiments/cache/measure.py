"""Measures the size of each cache method and its effect on loss and gradient.

  python -m experiments.cache.measure gguf:FILE STUDENT_WORKDIR OUT

Caches the targets of the real Gemma 3 270M for rows of GSM8K once per method.
Compares the forward KL of a student with half of its layers, and the gradient
of the student's embedding, with those from the full distribution.
"""

import json
import os
import sys
import tempfile

import jax
import jax.numpy as jnp
from matplotlib import ticker
import matplotlib.figure

from kd.config import base
from kd.configs import gemma3_270m_gsm8k
from kd.core import atomic_files
from kd.core import types
from kd.input_pipeline import rows as rows_lib
from kd.modes import cache as cache_mode
from kd.run import outputs
from kd.run import resolve
from kd.teachers.cache import report
from kd.teachers.cache import shards
from kd.teachers.cache import writer
from kd.train import training_rows
from kd.train.feeds import cached as cached_feed
from kd.train.feeds import live as live_feed

_EXAMPLES, _TIMES = 40, 32
_SIZES = (8, 16, 32, 64, 128, 256, 512)
_METHODS = (
  *[('top_k', dict(entries=k)) for k in _SIZES],
  ('top_k', dict(entries=64, logprobs='float16')),
  *[('sampled', dict(draws=k)) for k in _SIZES],
  *[('stratified', dict(entries=k - k // 4, draws=k // 4)) for k in _SIZES],
  ('nucleus', dict(mass=0.9, entries=256)),
  ('nucleus', dict(mass=0.98, entries=256)),
  ('hidden', dict(values='bfloat16')),
  ('hidden', dict(values='int8')),
)


def _config(gguf, workdir, method, folder):
  c = gemma3_270m_gsm8k.get_config(gguf)
  c.student.init = f'workdir:{workdir}'
  c.student.keep_layers = ()
  c.data.examples = _EXAMPLES
  c.cache.folder = folder
  c.cache.batch_size = 1
  c.cache.method = method
  return c


class _Gradient:
  """Sums forward KL and the gradient of the embedding over all rows."""

  def __init__(self, run, student, rows):
    self._rows = rows
    module = run.student.module
    nothing = types.TapSpec((), ())
    forward = jax.jit(lambda p, b: module.forward(p, b, nothing)[0])
    self._hidden = [forward(student, batch) for batch in rows]
    self._table = module.unembedding(student)

    def total(table, hidden, found, batch):
      settings = run.objective.settings(batch, 0)
      # Sums, not means: rows differ in their number of targets.
      settings = settings.replace(
        totals=jax.tree.map(jnp.ones_like, settings.totals)
      )
      return run.objective.logits_total(hidden, table, found, batch, settings)[
        0
      ]

    self._add = jax.jit(
      lambda sums, *inputs: jax.tree.map(
        jnp.add, sums, jax.value_and_grad(total)(*inputs)
      ),
      donate_argnums=0,
    )

  def __call__(self, find):
    """Returns (loss, gradient [V, D]) with the targets `find(row)` returns."""
    sums = jnp.zeros(()), jnp.zeros_like(self._table)
    for batch, hidden in zip(self._rows, self._hidden, strict=True):
      sums = self._add(sums, self._table, hidden, find(batch), batch)
    return float(sums[0]), sums[1]


@jax.jit
def _apart(found, exact):
  """Returns the norm of the difference over the norm of `exact`."""
  norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x)))
  return norm(found - exact) / norm(exact)


def _bytes(folder, manifest):
  """Returns the bytes of all records, without the padding to 64 KiB.

  Each record is written _TIMES times, so that the padding hardly counts.
  """
  (facts,) = manifest['shards']
  found = list(shards.read_records(folder, facts)) * _TIMES
  with tempfile.TemporaryDirectory() as scratch:
    many = shards.Shard(0, 1, 0, len(found))
    writer = shards.Writer(scratch, many)
    for record in found:
      writer.write(record)
    writer.finish({})
    return os.path.getsize(many.path(scratch)) / _TIMES


def _draw(results, path):
  """Draws the errors of the loss and of its gradient over bytes per target."""
  figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout='constrained')
  axes = figure.subplots(1, 2)
  by_name = {}
  for one in results:
    key = one['method']['name']
    if key == 'hidden' or one['method'].get('logprobs') == 'float16':
      continue
    by_name.setdefault(key, []).append(one)
  for name, ones in by_name.items():
    size = [one['bytes_per_target'] for one in ones]
    for axis, field in zip(axes, ('loss_bias', 'gradient_error'), strict=True):
      values = [100 * abs(one[field]) for one in ones]
      axis.plot(size, values, marker='o', label=name)
  titles = 'error of forward KL, %', 'error of its gradient, %'
  for axis, title in zip(axes, titles, strict=True):
    axis.set(xscale='log', yscale='log', xlabel='bytes per target', title=title)
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    for side in (axis.xaxis, axis.yaxis):
      side.set_major_formatter('{x:g}')
      side.set_minor_formatter(ticker.NullFormatter())
    axis.grid(alpha=0.3)
  axes[1].legend()
  atomic_files.write_picture(path, figure, dpi=120)


def _table(results):
  """Returns a Markdown table."""
  lines = [
    '| method | ids per target | bytes per target | loss, % | gradient, % |',
    '| --- | ---: | ---: | ---: | ---: |',
  ]
  for one in results:
    method = dict(one['method'])
    name = method.pop('name')
    what = ', '.join(f'{k} {v}' for k, v in method.items() if v != 'uint8')
    ids = one['entries_per_target']
    lines.append(
      f'| {name}: {what} | {"-" if ids is None else f"{ids:.1f}"} | '
      f'{one["bytes_per_target"]:.1f} | {100 * one["loss_bias"]:+.2f} | '
      f'{100 * one["gradient_error"]:.2f} |'
    )
  return '\n'.join(lines)


def main(gguf, workdir, out):
  """Measures; writes results.json and result.png next to this file."""
  first = _config(gguf, workdir, base.cache_method('top_k'), out)
  run = resolve.resolve(first, jax.devices())
  prepared = training_rows.prepare(run, print)
  teachers = live_feed.load(run)
  numbered = rows_lib.Numbered(prepared)
  rows = [numbered([n]) for n in range(len(numbered))]
  gradient = _Gradient(run, outputs.student_params(run, out), rows)
  live = live_feed.targets_on(run, teachers, run.mesh)
  loss, exact = gradient(live)
  count = sum(int((batch.weights != 0).sum()) for batch in rows)
  print(f'{count} targets, forward KL {loss / count:.4f}', flush=True)
  results = []
  for name, changes in _METHODS:
    spec = base.cache_method(name, **changes)
    label = '-'.join([name, *(str(v) for v in changes.values())])
    folder = os.path.join(out, label)
    os.makedirs(folder, exist_ok=True)
    run = resolve.resolve(_config(gguf, workdir, spec, folder), jax.devices())
    job = cache_mode.job_of(run, prepared, teachers, folder, lambda line: None)
    if not os.path.exists(os.path.join(folder, 'manifest.json')):
      writer.write(job)
    cache = cached_feed.open_cache(run, prepared)
    from_cache = cached_feed.targets_of(run, cache)
    found, slope = gradient(
      lambda batch, cache=cache, find=from_cache: find(cache.read(batch))
    )
    figures = report.measure(cache.manifest, prepared)
    results.append(
      {
        'method': spec.to_dict(),
        'bytes_per_target': _bytes(folder, cache.manifest) / count,
        'entries_per_target': figures.get('entries_per_target'),
        'tail_mass': figures.get('tail_mass'),
        'loss': found / count,
        'loss_bias': found / loss - 1,
        'gradient_error': float(_apart(slope, exact)),
      }
    )
    print(json.dumps(results[-1]), flush=True)
  here = os.path.dirname(os.path.abspath(__file__))
  atomic_files.write_json(
    os.path.join(here, 'results.json'),
    {'targets': count, 'loss': loss / count, 'methods': results},
  )
  _draw(results, os.path.join(here, 'result.png'))
  print(_table(results), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
