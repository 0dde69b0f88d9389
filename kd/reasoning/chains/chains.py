"""Chains of thought on disk: asked for, resumed, selected, written.

  chains.json     what decides the samples; another run's folder is refused
  samples.jsonl   every reply, one line a problem
  traces.jsonl    what is kept, one line a trace: see `write`
  summary.json    counts

A killed run resumes with the first problem that has no whole line. Rules of
selection are not part of chains.json: samples are selected from anew.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from kd.core import errors
from kd.core import identity as identity_lib
from kd.core import json_lines
from kd.core import run_info
from kd.reasoning.arithmetic import answers
from kd.reasoning.chains import questions as questions_lib
from kd.reasoning.chains import traces as traces_lib
from kd.sampling import requests

IDENTITY = 'chains.json'
SAMPLES = 'samples.jsonl'
TRACES = 'traces.jsonl'
SUMMARY = 'summary.json'
REPORT = 'report.md'

Question = questions_lib.Question


@dataclasses.dataclass(frozen=True)
class Asked:
  """A question as the model reads it.

  Attributes:
    question: it.
    ids: of its prompt, BOS included.
    seed: of its samples.
  """

  question: Question
  ids: tuple[int, ...]
  seed: int

  @property
  def digest(self) -> str:
    """Of the prompt's ids: text, template and tokenizer have a part in it."""
    array = np.asarray(self.ids, '<i4')
    return identity_lib.bytes_digest(array.tobytes())


def seed_of(seed: int, question: Question) -> int:
  """Returns a seed of a question's own, whatever others are asked with it."""
  digest = hashlib.sha256(f'{seed}:{question.id}'.encode()).digest()
  return int.from_bytes(digest[:4], 'big') >> 1


def sample(
  asked: Sequence[Asked],
  sampler: requests.Sampler,
  settings: requests.SamplingSettings,
  samples: int,
  folder: str,
  identity: Mapping[str, Any],
  concurrency: int,
  say: Callable[[str], None],
) -> list[list[traces_lib.SampledSolution]]:
  """Samples every question's solutions that the folder lacks.

  Args:
    asked: with ids of their own.
    sampler: answers.
    settings: of all requests.
    samples: of each question.
    folder: made where it is missing.
    identity: what decides the samples in addition to the questions, as JSON.
    concurrency: questions that are asked before the next write.
    say: called with progress.

  Returns:
    The samples of each question, in the questions' order.

  Raises:
    ConfigError: the folder is another run's, or its samples are damaged.
    NonFiniteError: as the sampler.
  """
  prompts = ''.join(a.digest for a in asked).encode()
  _claim(folder, {**identity, 'prompts': identity_lib.bytes_digest(prompts)})
  path = os.path.join(folder, SAMPLES)
  done = _resume(path, asked, samples)
  if done:
    say(
      f'{path}: samples of {len(done)} problems, of {run_info.date(path)}, are '
      'kept'
    )
  with open(path, 'ab') as f:
    for begin in range(len(done), len(asked), concurrency):
      group = asked[begin : begin + concurrency]
      answered = sampler(
        [requests.Request(a.ids, a.seed, samples) for a in group], settings
      )
      records = []
      for one, replies in zip(group, answered, strict=True):
        done.append([traces_lib.SampledSolution.of(reply) for reply in replies])
        records.append(_record(one, done[-1]))
      json_lines.append(f, records)
      say(f'{len(done)}/{len(asked)} problems, {samples} samples each')
  return done


def _record(asked, samples):
  return {
    'id': asked.question.id,
    'prompt_digest': asked.digest,
    'seed': asked.seed,
    'samples': [dataclasses.asdict(sampled) for sampled in samples],
  }


def _claim(folder: str, identity: Mapping[str, Any]) -> None:
  """Makes the folder, or refuses one with samples of something else."""
  has_samples = os.path.exists(os.path.join(folder, SAMPLES))
  if has_samples and not os.path.exists(os.path.join(folder, IDENTITY)):
    raise errors.ConfigError(
      'reasoning.folder',
      f'{folder!r} holds {SAMPLES} without {IDENTITY}',
      legal='a new folder, or one that such a run began',
    )
  identity_lib.claim(
    folder,
    IDENTITY,
    identity,
    'reasoning.folder',
    'samples of another run',
    'a new folder, or the same model, prompts and settings',
  )


def _resume(
  path: str, asked: Sequence[Asked], samples: int
) -> list[list[traces_lib.SampledSolution]]:
  """Returns the samples that are there already, in order."""
  done = []
  legal = 'a line of samples, or a new folder'
  for where, record in json_lines.resume(path, legal):
    try:
      replies = [
        traces_lib.SampledSolution(**reply) for reply in record['samples']
      ]
      named = record['id'], record['prompt_digest'], len(replies)
    except (TypeError, KeyError) as e:
      raise errors.ConfigError(where, f'is damaged ({e})', legal) from e
    number = len(done)
    if number >= len(asked) or named != (
      asked[number].question.id,
      asked[number].digest,
      samples,
    ):
      raise errors.ConfigError(
        where,
        f'has samples of {named[0]!r}, which is not problem {number + 1}',
        legal='a new folder, or one that a run with these problems began',
      )
    done.append(replies)
  return done


def write(
  folder: str,
  kept: Sequence[traces_lib.Trace],
  asked: Sequence[Asked],
  provenance: Mapping[str, Any],
) -> str:
  """Writes traces.jsonl aside, then renames it.

  Each line holds id, problem, inputs, targets (rationale, then '#### N'),
  rationale, answer, and provenance: what is given here, seed, prompt_digest,
  sample, tokens, logprob, steps (how many of each verdict), right, votes.

  Returns:
    The file's path.
  """
  by_id = {a.question.id: a for a in asked}
  path = os.path.join(folder, TRACES)
  lines = []
  for trace in kept:
    one = by_id[trace.question.id]
    answer = answers.write(trace.answer.value)
    kinds = [step.kind for step in trace.steps]
    row = {
      'id': trace.id,
      'problem': trace.question.id,
      'inputs': trace.question.inputs,
      'targets': f'{trace.rationale}\n{answers.MARKER} {answer}',
      'rationale': trace.rationale,
      'answer': answer,
      'provenance': {
        **provenance,
        'seed': one.seed,
        'prompt_digest': one.digest,
        'sample': trace.number,
        'tokens': trace.sampled.tokens,
        'logprob': trace.sampled.logprob,
        'steps': {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        'right': trace.right,
        'votes': {answers.write(v): n for v, n in trace.vote.counts},
      },
    }
    lines.append(json_lines.encode(row))
  run_info.write_bytes(path, b''.join(lines))
  return path
