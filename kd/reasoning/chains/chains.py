"""Samples chains of thought, resumes interrupted runs, and writes traces.

  chains.json     settings that determine the samples; must match to resume
  samples.jsonl   all replies, one line per problem
  traces.jsonl    the kept traces, one line each: see `write`
  summary.json    counts

An interrupted run resumes at the first problem without a complete line.
chains.json does not contain the selection rules, so that they can change:
traces are always selected again from all samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from kd.core import errors
from kd.core import identity as identity_lib
from kd.core import json_lines
from kd.core import run_info
from kd.input_pipeline import templates
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
    ids: token ids of the prompt, including BOS; () if a server encodes it.
    seed: random seed of its samples.
    messages: the prompt, for a server.
  """

  question: Question
  ids: tuple[int, ...]
  seed: int
  messages: tuple[templates.Message, ...] = ()

  @property
  def digest(self) -> str:
    """Returns a digest of the prompt.

    The ids are digested, which depend on text, template and tokenizer; without
    ids, the messages.
    """
    if not self.ids:
      return identity_lib.digest(self.messages)
    array = np.asarray(self.ids, '<i4')
    return identity_lib.bytes_digest(array.tobytes())


def seed_of(seed: int, question: Question) -> int:
  """Returns the seed of a question, which does not depend on the others."""
  digest = hashlib.sha256(f'{seed}:{question.id}'.encode()).digest()
  return int.from_bytes(digest[:4], 'big') >> 1


@dataclasses.dataclass(frozen=True)
class Solved:
  """The samples of a question.

  Attributes:
    samples: solutions, in the order of their numbers.
    replies: fields of each reply of a server, as JSON: `date`, `model`,
      `fingerprint`, `prompt_tokens`, `generated_tokens`; () for a local model.
  """

  samples: list[traces_lib.SampledSolution]
  replies: tuple[Mapping[str, Any], ...] = ()


# Solves questions in order; yields the samples of one group at a time.
Solver = Callable[[Sequence[Prompt]], Iterator[Sequence[Solved]]]


def solver(
  sampler: requests.Sampler,
  settings: requests.SamplingSettings,
  samples: int,
  concurrency: int,
) -> Solver:
  """Returns a solver that samples from a local model.

  Args:
    sampler: the sampler.
    settings: sampling settings of all requests.
    samples: number of samples per question.
    concurrency: number of questions sampled between two writes.
  """

  def solve(prompts):
    for begin in range(0, len(prompts), concurrency):
      group = prompts[begin : begin + concurrency]
      answered = sampler(
        [requests.Request(a.ids, a.seed, samples) for a in group], settings
      )
      from_sample = traces_lib.SampledSolution.from_sample
      yield [Solved([from_sample(x) for x in replies]) for replies in answered]

  return solve


def sample(
  prompts: Sequence[Prompt],
  solve: Solver,
  samples: int,
  folder: str,
  identity: Mapping[str, Any],
  say: Callable[[str], None],
) -> list[Solved]:
  """Samples solutions of all questions, except those already in the folder.

  Args:
    prompts: the prompts, with unique question ids.
    solve: the solver.
    samples: number of samples per question.
    folder: output folder; created if it is missing.
    identity: settings that determine the samples, in addition to the prompts;
      as JSON.
    say: prints a line of progress.

  Returns:
    The samples of each question, in the order of the prompts.

  Raises:
    ConfigError: the folder belongs to another run, or its samples are damaged.
    Exception: the solver raised it.
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
    for group in solve(prompts[len(done) :]):
      asked = prompts[len(done) : len(done) + len(group)]
      json_lines.append(
        f, [_record(*x) for x in zip(asked, group, strict=True)]
      )
      done += group
      say(f'{len(done)}/{len(prompts)} problems, {samples} samples each')
  return done


def _record(prompt, solved):
  record = {
    'id': prompt.question.id,
    'prompt_digest': prompt.digest,
    'seed': prompt.seed,
    'samples': [dataclasses.asdict(sampled) for sampled in solved.samples],
  }
  return record | ({'replies': solved.replies} if solved.replies else {})


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


def _resume(path: str, prompts: Sequence[Prompt], samples: int) -> list[Solved]:
  """Returns the samples that are already in the file, in order."""
  done = []
  legal = 'a line of samples, or a new folder'
  for where, record in json_lines.resume(path, legal):
    try:
      replies = [
        traces_lib.SampledSolution(**reply) for reply in record['samples']
      ]
      key = record['id'], record['prompt_digest'], len(replies)
      told = tuple(record['replies'] if 'replies' in record else ())
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
    done.append(Solved(replies, told))
  return done


def _votes(trace):
  """Returns samples by answer; whole texts are not repeated."""
  counts = dict(trace.vote.counts)
  if not trace.kind.has_steps:
    return {'this text': counts[trace.answer.value]}
  return {trace.kind.shown(value): n for value, n in counts.items()}


def write(
  folder: str,
  kept: Sequence[traces_lib.Trace],
  prompts: Sequence[Prompt],
  provenance: Mapping[str, Any],
) -> str:
  """Writes traces.jsonl atomically.

  Each line has id, problem, inputs, prompt (the messages of a chat request to a
  server), targets (rationale, then '#### N'; or the whole text),
  rationale, answer ('' if it is the text) and provenance, which contains the
  given provenance, seed, prompt_digest, sample, tokens, logprob, steps (counts
  by verdict), right and votes.

  Returns:
    The path of the file.
  """
  by_id = {prompt.question.id: prompt for prompt in prompts}
  path = os.path.join(folder, TRACES)
  rows = []
  for trace in kept:
    prompt = by_id[trace.question.id]
    shown = trace.kind.shown
    was_asked = prompt.messages and trace.question.chat
    kinds = [step.kind for step in trace.steps]
    row = {
      'id': trace.id,
      'problem': trace.question.id,
      'inputs': trace.question.inputs,
      **({'prompt': trace.question.chat} if was_asked else {}),
      'targets': trace.targets,
      'rationale': trace.rationale,
      'answer': shown(trace.answer.value) if trace.kind.has_steps else '',
      'provenance': {
        **provenance,
        'seed': prompt.seed,
        'prompt_digest': prompt.digest,
        'sample': trace.number,
        'tokens': trace.sampled.tokens,
        'logprob': trace.sampled.logprob,
        'steps': {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        'right': trace.right,
        'votes': _votes(trace),
      },
    }
    rows.append(row)
  json_lines.write(path, rows)
  return path
