"""Reads and stores the benchmark reports of versions."""

import os
from typing import Any

from kd.core import atomic_files
from kd.core import errors
from kd.core import identity
from kd.core import json_files
from kd.core import verdict_names

FOLDER = 'reports'
VERDICTS = verdict_names.VERDICTS


def read(path: str) -> dict[str, Any]:
  """Returns a report of --mode=benchmark.

  Raises:
    ConfigError: the file is not a benchmark report, or has no verdict.
  """
  report = json_files.read(path)
  verdict = report.get('verdict')
  if verdict not in VERDICTS:
    raise json_files.unexpected(
      f'{path}: verdict',
      verdict,
      f'{", ".join(VERDICTS)}; --mode=benchmark writes it where there is a '
      'model to compare with',
    )
  return report


def check_weights(path: str, weights: str | None) -> None:
  """Raises ConfigError if a report is about different weights.

  Args:
    path: path of the report, which may not name its weights.
    weights: digest of the weights in the provenance of an export; None if
      unknown.
  """
  benchmarked = read(path).get('weights', {}).get('model', [])
  is_known = weights and benchmarked and None not in benchmarked
  if is_known and weights not in benchmarked:
    raise errors.ConfigError(
      f'{path}: weights',
      f'found {", ".join(benchmarked)}, and the model has {weights}',
      legal='a report of --mode=benchmark on this model',
    )


def store(registry: str, path: str) -> dict[str, Any]:
  """Copies a report into a registry; returns its entry for the journal.

  Raises:
    ConfigError: see `read`.
  """
  report = read(path)
  with open(path, 'rb') as f:
    data = f.read()
  name = os.path.join(FOLDER, f'{identity.bytes_digest(data)}.json')
  os.makedirs(os.path.join(registry, FOLDER), exist_ok=True)
  file = os.path.join(registry, name)
  atomic_files.write_bytes(file, data)
  return {
    'file': name,
    'sha256': identity.file_digest(file),
    'verdict': report['verdict'],
    'reference': report.get('reference'),
  }


def problem(registry: str, report: dict[str, Any]) -> str:
  """Returns how a stored report differs from the recorded one, or ''."""
  file = os.path.join(registry, report['file'])
  if not os.path.isfile(file):
    return f'{file}: is missing'
  digest = identity.file_digest(file)
  if digest != report['sha256']:
    return f'{file}: its digest is {digest}, not {report["sha256"]}'
  return ''


def check(name: str, report: dict[str, Any] | None, admitted: Any) -> None:
  """Raises ConfigError unless a report allows a promotion.

  Args:
    name: name of the version.
    report: report from `store`; None without one.
    admitted: verdicts in `registry.admit`.
  """
  if report is None:
    raise errors.ConfigError(
      'command line',
      f'{name} has no benchmark report',
      legal='kd registry add MODEL REPORT, with the JSON of --mode=benchmark',
    )
  if report['verdict'] not in admitted:
    raise errors.ConfigError(
      'command line',
      f'the verdict on {name} is {report["verdict"]!r}',
      legal=f'{", ".join(admitted)} (registry.admit)',
    )
