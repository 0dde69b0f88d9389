"""Measures a cache, finds damage, and compares it with its teacher."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import os
from typing import Any

import jax
import numpy as np

from kd.core import atomic_files
from kd.core import errors
from kd.input_pipeline import prepare
from kd.teachers.cache import compression
from kd.teachers.cache import manifest as manifest_lib
from kd.teachers.cache import reader
from kd.teachers.cache import records
from kd.teachers.cache import shards

FILE = 'cache.json'

# Nats. Rounding, which depends on the batch size and mesh, is far less; the
# difference of another teacher or row is far more.
_FAR = 0.1


def problems(
  folder: str, manifest: Mapping[str, Any]
) -> tuple[list[int], list[str]]:
  """Returns the problems of all files of a cache.

  Args:
    folder: the cache's folder.
    manifest: the cache's manifest.

  Returns:
    The numbers of damaged shards; and lines on problems with them and with
    other files, [] if there are none.
  """
  broken, lines = [], []
  for number, facts in enumerate(manifest['shards']):
    why = shards.problem(folder, facts, deep=True)
    if why:
      broken.append(number)
      lines.append(f'{facts["file"]} {why}')
      lines += _damaged_rows(folder, manifest, facts)
  lines += shards.changed(folder, manifest['files'])
  return broken, lines


def _damaged_rows(folder, manifest, facts) -> Iterator[str]:
  """Yields a line on the damaged rows of a file, if it has any."""
  if not os.path.exists(os.path.join(folder, facts['file'])):
    return
  request = manifest['request']
  method = compression.METHODS.build(request['method'], 'method')
  digest = manifest_lib.cache_digest(request)
  bad = []
  for number, record in enumerate(shards.read_records(folder, facts)):
    try:
      if record is None:
        raise records.DamagedError('it cannot be read')
      records.decode(record, method, request['vocab_size'], digest)
    except records.DamagedError:
      bad.append(facts['first_row'] + number)
  if bad:
    named = ', '.join(str(n) for n in bad[:5]) + (', ...' if bad[5:] else '')
    yield f'  of {facts["rows"]} rows {len(bad)} cannot be read: {named}'


def measure(
  manifest: Mapping[str, Any], prepared: Sequence[prepare.Prepared]
) -> dict[str, float]:
  """Returns the statistics of a cache that docs/cache.md describes.

  Args:
    manifest: the cache's manifest.
    prepared: its rows.
  """
  facts = manifest['shards']
  total = lambda name: sum(f['statistics'][name] for f in facts)
  positions = max(total('positions'), 1)
  size = sum(f['bytes'] for f in facts)
  method = compression.METHODS.build(manifest['request']['method'], 'method')
  found = {
    'rows': sum(f['rows'] for f in facts),
    'files': len(facts),
    'bytes': size,
    'targets': total('positions'),
    'coverage': total('positions') / sum(p.counts['tokens'] for p in prepared),
    'bytes_per_target': size / positions,
    'nll': total('nll') / positions,
    'entropy': total('entropy') / positions,
    'dropped_mass': total('dropped_mass') / positions,
  }
  if method.entries:
    found['entries_per_target'] = total('entries') / positions
  if method.exact:
    found['tail_mass'] = total('tail_mass') / positions
  return found


def report(
  cache: reader.Cache,
  prepared: Sequence[prepare.Prepared],
  workdir: str,
  say: Callable[[str], None],
) -> None:
  """Prints the statistics of a cache and writes <workdir>/cache.json."""
  request, found = cache.manifest['request'], measure(cache.manifest, prepared)
  arguments = ', '.join(f'{k} {v}' for k, v in request['method'].items())
  digests = ', '.join(t['digest'] for t in request['teachers'])
  say(f'{cache.folder}: {arguments}; teacher {digests}')
  say(
    f'  {found["rows"]:,} rows in {found["files"]} files, '
    f'{found["bytes"] / 2**20:,.1f} MiB; {found["targets"]:,} targets, '
    f'{found["coverage"]:.0%} of all tokens, {found["bytes_per_target"]:.1f} '
    'bytes each'
  )
  line = (
    f'  teacher: NLL {found["nll"]:.4f}, entropy {found["entropy"]:.4f} nats'
  )
  if 'entries_per_target' in found:
    line += f'; {found["entries_per_target"]:.1f} ids per target'
  if 'tail_mass' in found:
    line += f', {found["tail_mass"]:.2%} of the mass beyond them'
  say(line)
  if found['dropped_mass']:
    say(
      f'  {found["dropped_mass"]:.2e} of the mass was on ids that the student '
      'or the tokenizer lacks, and was left out'
    )
  if jax.process_index() == 0:
    os.makedirs(workdir, exist_ok=True)
    atomic_files.write_json(os.path.join(workdir, FILE), {**request, **found})


class Comparison:
  """Compares stored targets with those that the teacher computes now."""

  def __init__(self, method: compression.Method):
    self._method, self._errors = method, []
    self._shared, self._all = 0, 0

  def add(self, stored: records.RecordedRow, now: records.RecordedRow) -> None:
    """Compares one row, whose digest was checked when it was read."""
    self._errors.append(np.abs(stored.target_logprob - now.target_logprob))
    self._errors.append(np.abs(stored.log_normalizer - now.log_normalizer))
    if not self._method.entries:
      scale = np.abs(now.hidden.astype(np.float32)).max(initial=1e-9)
      difference = stored.hidden.astype(np.float32) - now.hidden
      self._errors.append(np.abs(difference).ravel() / scale)
      return
    there, here = _by_place(stored), _by_place(now)
    both, at, other = np.intersect1d(
      there, here, assume_unique=True, return_indices=True
    )
    self._errors.append(np.abs(stored.logprobs[at] - now.logprobs[other]))
    self._shared += len(both)
    self._all += len(there)

  def say(self, say: Callable[[str], None], rows: int) -> None:
    """Prints the differences.

    Raises:
      ConfigError: the mean difference is too large for the same teacher.
    """
    errors_found = np.concatenate(self._errors) if self._errors else np.zeros(1)
    largest, mean = errors_found.max(initial=0.0), errors_found.mean()
    same = self._shared / self._all if self._all else 1.0
    line = (
      f'{rows} rows scored again: largest error {largest:.3g} nats, mean '
      f'{mean:.3g}, {same:.1%} of the ids the same'
    )
    # `not <=`, so that NaN fails too.
    if not mean <= _FAR:
      raise errors.ConfigError(
        'cache.folder', line, legal=f'a mean of {_FAR} nats at most'
      )
    say(line)


def _by_place(row):
  """Returns position and id packed into one int64."""
  place = np.repeat(np.arange(len(row.entries)), row.entries)
  return place.astype(np.int64) << 32 | row.ids
