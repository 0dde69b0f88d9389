"""Writes the provenance of traces next to them."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from kd.core import atomic_files
from kd.core import identity
from kd.reasoning.chains import chains
from kd.reasoning.chains import served

FILE = 'provenance.json'
_FORMAT = 1


def write(
  folder: str,
  claims: Mapping[str, Any],
  selected: Mapping[str, Any],
  summary: Mapping[str, Any],
  solved: Sequence[chains.Solved],
) -> None:
  """Writes provenance.json.

  The same samples and rules produce the same file; its dates are those of the
  server's replies.

  Args:
    folder: folder of the samples and the traces.
    claims: the model, its endpoint if it is served, and the settings.
    selected: the kind of answer and the selection rules.
    summary: counts, from chain_report.summarize.
    solved: all samples.
  """
  counts = {name: summary[name] for name in ('problems', 'samples', 'accepted')}
  counts['rejected'] = summary['samples'] - summary['accepted']
  told = any(one.replies for one in solved)
  files = {
    name: identity.file_digest(os.path.join(folder, name))
    for name in (chains.SAMPLES, chains.TRACES)
  }
  record = {
    'format': _FORMAT,
    'source': dict(claims),
    'replies': served.totals(solved) if told else None,
    'selection': dict(selected),
    'counts': {**counts, 'reasons': summary['reasons']},
    'sha256': files,
  }
  atomic_files.write_json(os.path.join(folder, FILE), record)
