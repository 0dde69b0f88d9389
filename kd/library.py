"""The Python API of kd, as `import kd` exports it (docs/library.md).

It calls the same functions as the modes and raises the same errors, such as
errors.ConfigError for a mistake of the caller.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import os
import tempfile
from typing import Any

from absl import logging
import ml_collections

from kd.benchmarking import benchmark as benchmark_lib
from kd.config import base
from kd.config import command_line
from kd.core import buckets
from kd.core import compile_cache
from kd.core import errors
from kd.core import paths
from kd.core import types
from kd.data_files import chats
from kd.evaluation import likelihood
from kd.evaluation import results
from kd.evaluation import scored_texts
from kd.images import loading
from kd.input_pipeline import templates
from kd.modes import plan as plan_mode
from kd.modes import train as train_mode
from kd.partitioning import rules
from kd.planning import records
from kd.run import any_model
from kd.run import resolved
from kd.run import session
from kd.run import workdirs
from kd.sampling import engine
from kd.sampling import fields as sampling_fields
from kd.sampling import images as images_lib
from kd.sampling import requests
from kd.train import evaluation_records

Config = ml_collections.ConfigDict
Path = str | os.PathLike[str]
# A prompt's text, or the messages of a chat: dicts of role and content.
Prompt = str | Sequence[Mapping[str, Any]]

# Fields of `generate` that `Model.generate` does not take.
_NOT_SETTINGS = ('prompts', 'output', 'logprobs', 'quantize')


@dataclasses.dataclass(frozen=True)
class Distilled:
  """The results of a training run.

  Attributes:
    workdir: path of the run's workdir.
    metrics: metrics of the student's last evaluation by name, such as
      'eval/held_out/nll'; {} without held-out sets.
    report: path of report.md; None without held-out sets.
  """

  workdir: str
  metrics: Mapping[str, float]
  report: str | None

  @functools.cached_property
  def student(self) -> 'Model':
    """The student, from the checkpoint that `export.checkpoint` names."""
    return load(f'workdir:{self.workdir}')


@dataclasses.dataclass(frozen=True)
class Score:
  """The likelihood of a text under a model.

  Attributes:
    nll: negative log-likelihood of the text's tokens after the first, or of
      the chat's answers, in nats.
    tokens: number of scored tokens.
  """

  nll: float
  tokens: int


def get_config(name: str, **changes: Any) -> Config:
  """Returns a config with changed fields.

  Args:
    name: a value of --config: the name of a config that comes with kd, such as
      'quickstart', or a file, either with an optional ':ARGUMENT'.
    **changes: new values of top-level config fields, such as `steps`.

  Raises:
    ConfigError: the config or a field does not exist.
  """
  value = command_line.load(name, 'config')
  for key, change in changes.items():
    if key not in value:
      raise errors.unknown(key, 'field', key, list(value))
    value[key] = change
  return value


def distill(config: Config | str, workdir: Path) -> Distilled:
  """Trains a student like --mode=train, or resumes the run of the workdir.

  Args:
    config: a config, or the name of one; see `get_config`.
    workdir: path of the run's workdir.

  Raises:
    KdError: the run failed; see kd/modes/train.py.
  """
  folder = _folder(workdir)
  compile_cache.enable()
  with _quiet_libraries():
    train_mode.main(_checked(config), folder)
  step = workdirs.read_run(folder)['ends']['student']['step']
  evaluated = results.read(evaluation_records.path(folder, f'step_{step}'))
  report = os.path.join(folder, 'report.md')
  return Distilled(
    buckets.shown(folder),
    dict(evaluated[1].metrics) if evaluated else {},
    buckets.shown(report) if os.path.exists(report) else None,
  )


def plan(
  config: Config | str, workdir: Path | None = None
) -> list[dict[str, Any]]:
  """Plans the memory and time of a run on a TPU slice, like --mode=plan.

  Afterwards JAX in this process uses only the CPU.

  Args:
    config: a config with `plan.topology`; see `distill`.
    workdir: folder for plan.json, a table and a picture; None to write nothing.

  Returns:
    The rows of plan.json, one for each length.

  Raises:
    KdError: the config is invalid for the slice, or the compiler failed.
  """
  value = _checked(config)
  with tempfile.TemporaryDirectory() as scratch:
    folder = scratch if workdir is None else _folder(workdir)
    plan_mode.main(value, folder)
    return records.read(folder)


def benchmark(
  models: Path | Sequence[Path],
  workdir: Path,
  config: Config | str | None = None,
  **fields: Any,
) -> dict[str, Any]:
  """Compares a model with its teacher, a baseline and earlier benchmarks.

  Args:
    models: a model as for `load`, or several that differ only in their seed.
    workdir: folder whose subfolder `benchmarks` receives the results.
    config: a config with the held-out sets and the teacher; see `distill`. None
      for that of the first workdir among the models, or the default one.
    **fields: fields of the config's section `benchmark`.

  Returns:
    The contents of benchmark.json, such as `verdict`.

  Raises:
    KdError: the benchmark failed; see kd/modes/benchmark.py.
  """
  one = isinstance(models, str | os.PathLike)
  places = [os.fspath(x) for x in ((models,) if one else models)]
  if config is None:
    config = session.recorded_config(None, True, places)
  value = _checked(config)
  with value.unlocked():
    for name in fields:
      if name not in value.benchmark:
        raise errors.unknown(name, 'field', name, list(value.benchmark))
    value.benchmark.update(fields)
  compile_cache.enable()
  with _quiet_libraries():
    return benchmark_lib.run(
      base.checked(value), _folder(workdir), places, session.say
    )


def load(path: Path, dtype: str = 'float32', template: str = '') -> 'Model':
  """Loads a model.

  Args:
    path: a workdir, a folder for transformers, such as an export, or a GGUF
      file; 'workdir:DIR', 'hf:DIR' or 'gguf:FILE' sets the kind explicitly.
    dtype: data type of the computation, 'float32' or 'bfloat16'.
    template: chat template, a value of data.template; '' for the one that the
      weights were trained with, or 'plain' if that is unknown.

  Raises:
    ConfigError: the weights are missing or damaged.
  """
  compile_cache.enable()
  with _quiet_libraries():
    return Model(*any_model.load(os.fspath(path), dtype, template))


class Model:
  """A model with its parameters and tokenizer."""

  def __init__(
    self, run: resolved.Run, model: resolved.Model, params: types.PyTree
  ):
    """Initializes the model.

    Args:
      run: the run, as any_model.load returns it.
      model: the model, likewise.
      params: the model's parameters, likewise.
    """
    self._run, self._model, self._params = run, model, params
    self._words = engine.vocabulary(run.tokenizer)

  @property
  def parameter_count(self) -> int:
    """The number of parameters."""
    return self._model.config.parameter_count

  def generate(
    self, prompts: Sequence[Prompt], **settings: Any
  ) -> list[list[requests.Sample]]:
    """Samples answers to prompts.

    Args:
      prompts: texts, each a user's only message, or lists of messages. User
        messages may contain images, as in chat files (docs/data.md).
      **settings: fields of the config's `generate`, such as temperature, top_p,
        max_new_tokens, samples, seed, batch_size, stop_strings.

    Returns:
      The samples of each prompt: `text`, `finish`, `ids`, `logprobs`.

    Raises:
      ConfigError: a setting or a message is invalid.
      NonFiniteError: the model's logits are NaN or infinite.
    """
    if isinstance(prompts, str):
      raise errors.ConfigError('prompts', 'found a text', legal='a list')
    fields = self._generate_fields(settings)
    sampling = sampling_fields.settings(fields, tuple(fields.stop_strings))
    module = self._model.module
    engine.check_room(module, sampling.max_new_tokens, 'max_new_tokens')
    sampling_fields.check_devices(
      fields.batch_size, self._run.mesh, 'batch_size'
    )
    asked = [
      self._request(p, i, fields.seed, fields.samples)
      for i, p in enumerate(prompts)
    ]
    sampler = engine.Engine(module, self._words, fields.batch_size)
    with rules.active(self._run.mesh):
      answers = dict(sampler.stream(self._params, asked, sampling))
    return [answers[number] for number in range(len(asked))]

  def _generate_fields(self, settings):
    """Returns the checked section `generate` with these fields."""
    config = ml_collections.ConfigDict(self._run.config.to_dict())
    for key, value in settings.items():
      if key not in config.generate or key in _NOT_SETTINGS:
        legal = [k for k in config.generate if k not in _NOT_SETTINGS]
        raise errors.unknown(key, 'setting', key, legal)
      config.generate[key] = value
    return base.checked(config).generate

  def _request(self, prompt, number, seed, samples):
    run, where = self._run, f'prompts[{number}]'
    if isinstance(prompt, str):
      messages = templates.exchange(prompt)
    else:
      messages = self._messages(prompt, where)
    try:
      ids, images = images_lib.encode(
        run.tokenizer, run.config.data.template, messages, run.image_form
      )
    except errors.ConfigError as e:
      raise e.within(where) from e
    return requests.numbered(ids, seed, number, samples, images)

  def _messages(self, chat, where):
    """Returns a chat's checked messages with the images that they name."""
    loader = loading.Loader('', self._run.config.data.images.urls)
    return chats.check(list(chat), where, loader)

  def score(self, texts: Sequence[Prompt], batch_size: int = 8) -> list[Score]:
    """Computes the likelihood of texts, or of the answers of chats.

    Args:
      texts: texts of at least two tokens, counting the BOS, which is prepended
        if the tokenizer has one; or chats as for `generate`, whose assistant
        messages are scored.
      batch_size: number of texts in a batch.

    Raises:
      ConfigError: a text is too short or exceeds the context, or a message is
        invalid.
      NonFiniteError: the model's logits are NaN or infinite.
    """
    if isinstance(texts, str):
      raise errors.ConfigError('texts', 'found a text', legal='a list')
    sampling_fields.check_devices(batch_size, self._run.mesh, 'batch_size')
    run = self._run
    examples = [self._example(text, i) for i, text in enumerate(texts)]
    measure = likelihood.Scorer(
      self._model.module,
      None,
      ('the model',),
      run.mesh,
      batch_size,
      run.config.objective.chunk_tokens,
    )
    batches = scored_texts.batches(
      examples, batch_size, run.tokenizer.pad_id, run.image_form
    )
    scores = measure(self._params, batches) if examples else {'nll': []}
    return [
      Score(float(nll), scored_texts.targets(example))
      for nll, example in zip(scores['nll'], examples, strict=True)
    ]

  def _example(self, text, number):
    run, where = self._run, f'texts[{number}]'
    if isinstance(text, str):
      example = scored_texts.of_text(run.tokenizer, text, number)
    else:
      messages = self._messages(text, where)
      try:
        example = scored_texts.of_chat(
          *(run.tokenizer, run.config.data.template, messages),
          *(run.image_form, number),
        )
      except errors.ConfigError as e:
        raise e.within(where) from e
    scored_texts.check(example, self._model.config.context, where)
    return example


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
  """Hides warnings of libraries, as the command line does."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def _checked(config):
  """Returns a checked config, given the config or its name."""
  if isinstance(config, str):
    config = get_config(config)
  return base.checked(config)


def _folder(workdir: Path) -> str:
  """Returns the expanded path of a workdir, or raises ConfigError."""
  session.check_workdir(os.fspath(workdir))
  return paths.expand(os.fspath(workdir))
