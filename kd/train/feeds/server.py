"""Supplies batches with targets of a teacher on a server."""

import jax
import jax.numpy as jnp

from kd.core import errors
from kd.losses import distributions
from kd.losses import sparse_distributions
from kd.partitioning import placement
from kd.partitioning import rules
from kd.run import session
from kd.run import source
from kd.run import teacher_prefix
from kd.teachers.served import teacher as teacher_lib
from kd.train.feeds import abstract
from kd.train.feeds import feed
from kd.train.feeds import on_policy

_PATH = 'teacher.server'


@source.SOURCES.register('server')
class Source(source.Source):
  """The source of targets from a server."""

  def tokenizer_inits(self):
    # teacher.init is read only for its tokenizer.
    init = self._config.teacher.init
    return {'teacher.init': init} if init else {}

  def term_teacher(self, student, teachers):
    del teachers
    # Only layer terms use the sizes, and `check` rejects them.
    return student

  def check(self, mesh, student, objective):
    super().check(mesh, student, objective)
    config, server = self._config, self._config.teacher.server
    for name, legal in (
      ('url', 'the URL of a server, with its /v1'),
      ('folder', 'a local folder'),
    ):
      if not server[name]:
        raise errors.ConfigError(f'{_PATH}.{name}', "found ''", legal=legal)
    if objective.layer_terms:
      raise errors.ConfigError(
        f'losses.{objective.layer_terms[0].key}',
        'compares layers, but a server returns no layer outputs',
        legal='a term of next-token distributions, or a teacher that is live',
      )
    if config.teacher.others:
      raise errors.ConfigError(
        'teacher.others',
        f'found {", ".join(config.teacher.others)}, and the teacher is on a '
        'server',
        legal='{}',
      )
    if student.config.vision:
      raise errors.ConfigError(
        'student.vision',
        f'found {config.student.vision!r}, but requests to a server contain '
        'no images',
        legal='none',
      )
    if jax.process_count() > 1 and not placement.rows_are_apart(
      placement.process_indices(mesh)
    ):
      # Each would request them, and get targets that are rounded differently.
      axes = ', '.join(f'{k} {n}' for k, n in mesh.shape.items() if n > 1)
      raise errors.ConfigError(
        'mesh',
        f'found {axes}: several processes have the same rows of a batch, and '
        'each requests the targets of its rows from the server',
        legal='tensor and sequence axes within a process',
      )

  def describe_teacher(self):
    server = self._config.teacher.server
    urls = ', '.join((server.url, *server.replicas))
    return f'teacher: {server.model or "the model"} at {urls}'

  def teacher_names(self):
    return (f'the teacher ({_PATH}.url {self._config.teacher.server.url})',)

  def abstract_targets(self, run, model_config):
    del model_config
    shape, sharding = abstract.batch_shape(run), rules.batch_sharding(run.mesh)
    kept = *shape, run.config.teacher.server.top_k
    top_k = sparse_distributions.TopK(
      abstract.array(kept, jnp.int32, sharding),
      abstract.array(kept, jnp.float32, sharding),
      abstract.array(shape, jnp.float32, sharding),
    )
    return distributions.Targets(top_k, None)

  def open(self, run, prepared):
    return open_teacher(run, prepared, run.config.teacher.server.top_k)

  def close(self, opened):
    opened.close()

  def digest(self, opened):
    return opened.digest

  def feed(self, run, rows, digest, opened, live_targets):
    del live_targets
    return Feed(run, rows, digest, self.teacher_names(), opened)


@source.SOURCES.register('on_policy_server')
class OnPolicySource(Source, on_policy.Source):
  """A teacher on a server that scores the student's samples."""

  computed_by = 'server'

  def teacher_specs(self):
    return {}

  def feed(self, run, rows, digest, opened, live_targets):
    del live_targets
    return OnPolicyFeed(run, rows, digest, self.teacher_names(), opened)


def open_teacher(run, prepared, most: int) -> teacher_lib.Teacher:
  """Connects to the server of a run and probes it.

  Args:
    run: the resolved config.
    prepared: the rows of each task of the mixture.
    most: wanted number of likeliest ids per token.

  Raises:
    ConfigError, ReadError: see teacher.Teacher.
  """
  return teacher_lib.Teacher(
    run.config.teacher.server.to_dict(),
    run.tokenizer,
    run.student.config.vocab_size,
    most,
    session.say,
    prefix=run.config.teacher.prefix,
    prefixes=teacher_prefix.prefixes_of(run, prepared),
  )


def _targets(kept):
  return distributions.Targets(kept, None)


def _asked(teacher, batch) -> sparse_distributions.TopK:
  """Requests the targets of a batch and waits for them."""
  told = teacher.finish(batch, teacher.begin(batch))
  return sparse_distributions.TopK(told.ids, told.logprobs, told.tail_logprob)


class Feed(feed.Feed):
  """Supplies batches with a server's targets, requested some steps ahead."""

  def __init__(self, run, rows, digest, names, teacher: teacher_lib.Teacher):
    """Opens the feed; see feed.Feed.

    Args:
      run: the resolved config.
      rows: function that reads rows of a step's batch.
      digest: digest of the rows, their order and the teacher.
      names: names of the teachers, for messages.
      teacher: the teacher on the server.
    """
    super().__init__(run, rows, digest, names, _targets)
    self._teacher, self._steps = teacher, run.config.steps

  def read(self, step):
    batch = super().read(step)
    if step >= self._steps:
      return batch, None  # Read ahead beyond the last step, never trained on.
    return batch, _asked(self._teacher, batch)

  def __call__(self, step, params, read):
    del step, params
    (batch, kept), placing_s = self._place(read)
    return feed.StepInputs(batch, self._targets(kept), placing_s)


class OnPolicyFeed(on_policy.Feed):
  """Supplies on-policy batches with a server's targets."""

  def __init__(self, run, rows, digest, names, teacher: teacher_lib.Teacher):
    """Opens the feed; see Feed."""
    super().__init__(run, rows, digest, names, _targets)
    self._teacher = teacher

  def _scored(self, rows):
    (batch, kept), placing_s = self._place((rows, _asked(self._teacher, rows)))
    return batch, self._targets(kept), placing_s
