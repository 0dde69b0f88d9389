"""Samples chains of thought, resumes interrupted runs, and writes traces.

  chains.json     settings that determine the samples; must match to resume
  samples.jsonl   all replies, one line per problem
  traces.jsonl    the kept traces, one line each: see `write`
  summary.json    counts

An interrupted run resumes at the first problem without a complete line.
chains.json does not have the selection rules, so that they can change: traces
are always selected again from all samples.
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
class Prompt:
  """A question with its encoded prompt.

  Attributes:
    question: the question.
    ids: token ids of the prompt, including BOS.
    seed: random seed of its samples.
  """

  question: Question
  ids: tuple[int, ...]
  seed: int

  @property
  def digest(self) -> str:
    """Returns a digest of the ids; depends on text, template and tokenizer."""
    array = np.asarray(self.ids, '<i4')
    return identity_lib.bytes_digest(array.tobytes())


def seed_of(seed: int, question: Question) -> int:
  """Returns the seed of a question, which does not depend on the others."""
  digest = hashlib.sha256(f'{seed}:{question.id}'.encode()).digest()
  return int.from_bytes(digest[:4], 'big') >> 1


def sample(
  prompts: Sequence[Prompt],
  sampler: requests.Sampler,
  settings: requests.SamplingSettings,
  samples: int,
  folder: str,
  identity: Mapping[str, Any],
  concurrency: int,
  say: Callable[[str], None],
) -> list[list[traces_lib.SampledSolution]]:
  """Samples solutions of all questions, except those already in the folder.

  Args:
    prompts: the prompts, with unique question ids.
    sampler: the sampler.
    settings: sampling settings of all requests.
    samples: number of samples per question.
    folder: output folder; created if it is missing.
    identity: settings that determine the samples, in addition to the prompts;
      as JSON.
    concurrency: number of questions sampled between two writes.
    say: prints a line of progress.

  Returns:
    The samples of each question, in the order of the prompts.

  Raises:
    ConfigError: the folder belongs to another run, or its samples are damaged.
    NonFiniteError: the sampler raised it.
  """
  digests = ''.join(prompt.digest for prompt in prompts).encode()
  _claim(folder, {**identity, 'prompts': identity_lib.bytes_digest(digests)})
  path = os.path.join(folder, SAMPLES)
  done = _resume(path, prompts, samples)
  if done:
    say(
      f'{path}: samples of {len(done)} problems, of {run_info.date(path)}, are '
      'kept'
    )
  with open(path, 'ab') as f:
    for begin in range(len(done), len(prompts), concurrency):
      group = prompts[begin : begin + concurrency]
      answered = sampler(
        [requests.Request(a.ids, a.seed, samples) for a in group], settings
      )
      records = []
      for prompt, replies in zip(group, answered, strict=True):
        done.append(
          [traces_lib.SampledSolution.from_sample(reply) for reply in replies]
        )
        records.append(_record(prompt, done[-1]))
      json_lines.append(f, records)
      say(f'{len(done)}/{len(prompts)} problems, {samples} samples each')
  return done


def _record(prompt, samples):
  return {
    'id': prompt.question.id,
    'prompt_digest': prompt.digest,
    'seed': prompt.seed,
    'samples': [dataclasses.asdict(sampled) for sampled in samples],
  }


def _claim(folder: str, identity: Mapping[str, Any]) -> None:
  """Creates the folder, or raises if it belongs to another run."""
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
  path: str, prompts: Sequence[Prompt], samples: int
) -> list[list[traces_lib.SampledSolution]]:
  """Returns the samples that are already in the file, in order."""
  done = []
  legal = 'a line of samples, or a new folder'
  for where, record in json_lines.resume(path, legal):
    try:
      replies = [
        traces_lib.SampledSolution(**reply) for reply in record['samples']
      ]
      key = record['id'], record['prompt_digest'], len(replies)
    except (TypeError, KeyError) as e:
      raise errors.ConfigError(where, f'is damaged ({e})', legal) from e
    number = len(done)
    if number >= len(prompts) or key != (
      prompts[number].question.id,
      prompts[number].digest,
      samples,
    ):
      raise errors.ConfigError(
        where,
        f'has samples of {key[0]!r}, which is not problem {number + 1}',
        legal='a new folder, or one that a run with these problems began',
      )
    done.append(replies)
  return done


def write(
  folder: str,
  kept: Sequence[traces_lib.Trace],
  prompts: Sequence[Prompt],
  provenance: Mapping[str, Any],
) -> str:
  """Writes traces.jsonl atomically.

  Each line has id, problem, inputs, targets (rationale, then '#### N'),
  rationale, answer and provenance, which contains the given provenance, seed,
  prompt_digest, sample, tokens, logprob, steps (counts by verdict), right and
  votes.

  Returns:
    The path of the file.
  """
  by_id = {prompt.question.id: prompt for prompt in prompts}
  path = os.path.join(folder, TRACES)
  rows = []
  for trace in kept:
    prompt = by_id[trace.question.id]
    answer = answers.to_text(trace.answer.value)
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
        'seed': prompt.seed,
        'prompt_digest': prompt.digest,
        'sample': trace.number,
        'tokens': trace.sampled.tokens,
        'logprob': trace.sampled.logprob,
        'steps': {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        'right': trace.right,
        'votes': {answers.to_text(v): n for v, n in trace.vote.counts},
      },
    }
    rows.append(row)
  json_lines.write(path, rows)
  return path
