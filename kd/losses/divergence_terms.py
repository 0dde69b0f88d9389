"""Terms that compare next-token distributions: one for each divergence."""

import functools
import inspect

import jax
import jax.numpy as jnp

from kd.core import bounds
from kd.core import errors
from kd.core import types
from kd.losses import distributions
from kd.losses import divergences
from kd.losses import terms


def _check_targets(name, divergence, teacher, unit_temperature):
  """Samples say nothing of the ids that were not drawn."""
  if not isinstance(teacher, types.Sampled):
    return
  if not unit_temperature:
    raise errors.ConfigError(
      'temperature',
      f'{name} reads ids that were sampled at temperature 1',
      legal='1.0, or targets that are not sampled',
    )
  if divergence.needs_whole_distribution:
    raise errors.ConfigError(
      'name',
      f'{name} needs the whole distribution, and the targets are sampled ids',
      legal='another divergence, or targets that are not sampled',
    )


def _value_and_slope(divergence, pair):
  """The divergence's contributions and their derivative by log_q."""
  return jax.jvp(
    lambda log_q: divergence.integrand(pair.log_p, log_q),
    (pair.log_q,),
    (jnp.ones_like(pair.log_q),),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense(divergence, logits, temperature):
  """Returns the divergence from dense teachers, and which of them are finite.

  Differentiable in the student's logits.
  """
  return _dense_forward(divergence, logits, temperature)[0]


def _dense_forward(divergence, logits, temperature):
  sums = distributions.normalizers(logits, temperature)
  pair = distributions.dense_pair(logits, sums, temperature)
  value, slope = _value_and_slope(divergence, pair)
  slopes = jnp.sum(slope, axis=-1, keepdims=True)
  if divergence.slopes_cancel:
    slopes = jnp.zeros_like(slopes)
  losses = sums.keep_nonfinite(jnp.sum(value, axis=-1))
  residuals = logits, sums, temperature, slopes
  return (losses, sums.finite_teachers), residuals


def _dense_backward(divergence, residuals, cotangents):
  """(slope - q sum(slope)) / T, made anew in one pass that writes only itself.

  To read logits again and take exponentials twice costs less than to write
  arrays of V and read them; the barrier keeps the compiler from doing so.
  """
  logits, sums, temperature, slopes = residuals
  logits = jax.lax.optimization_barrier(logits)
  pair = distributions.dense_pair(logits, sums, temperature)
  _, slope = _value_and_slope(divergence, pair)
  gradient = slope - jnp.exp(pair.log_q) * slopes
  gradient *= cotangents[0][..., None] / temperature
  size = logits.student.shape[-1] - gradient.shape[-1]
  if size:
    gradient = jnp.pad(gradient, [(0, 0)] * (gradient.ndim - 1) + [(0, size)])
  zeros = jax.tree.map(lambda x: None, logits)
  return zeros.replace(student=gradient), None


_dense.defvjp(_dense_forward, _dense_backward)


def _sum(name, divergence, logits, temperature):
  """Returns the divergence, and for each teacher whether it is finite."""
  if isinstance(logits.teacher, tuple):
    return _dense(divergence, logits, temperature)
  pair = distributions.pair(logits, temperature)
  contributions = divergence.integrand(pair.log_p, pair.log_q)
  if pair.counts is not None:
    if name == 'forward_kl':
      # Its gradient is then q minus the drawn distribution, bounded, as Gemma 3
      # was trained (arXiv 2503.19786, section 2.2; arXiv 2503.16870).
      contributions = jnp.exp(pair.log_p) * (pair.log_p - pair.log_q)
    contributions *= pair.counts
  losses = pair.sums.keep_nonfinite(jnp.sum(contributions, axis=-1))
  return losses, pair.sums.finite_teachers


def _register(name):
  own = divergences.DIVERGENCES.arguments(name)

  def build(context, *, temperature, clip, part, **arguments):
    terms.check_part(part)
    if not clip >= 0:
      raise errors.ConfigError('clip', f'found {clip}', legal='0 or more')
    schedule = terms.positive(temperature, 'temperature', context.steps)
    unit_temperature = temperature == 1
    spec = {'name': name, **arguments}
    divergence = divergences.DIVERGENCES.build(spec, '')

    def per_token(
      logits: distributions.Logits, values: terms.Values
    ) -> tuple[types.Array, tuple[types.Array, ...]]:
      """T^k x divergence; the power k keeps the gradient's size."""
      _check_targets(name, divergence, logits.teacher, unit_temperature)
      t = values['temperature']
      losses, finite = _sum(name, divergence, logits, t)
      losses *= t**divergence.temperature_power
      return bounds.at_most(losses, clip) if clip else losses, finite

    return terms.LogitsLoss(
      per_token,
      part=part,
      needs_teacher=True,
      reads_labels=False,
      values={'temperature': schedule},
    )

  keyword = inspect.Parameter.KEYWORD_ONLY
  common = [
    inspect.Parameter(key, keyword) for key in ('temperature', 'clip', 'part')
  ]
  build.__signature__ = inspect.Signature(
    [
      inspect.Parameter('context', inspect.Parameter.POSITIONAL_ONLY),
      *common,
      *own.values(),
    ]
  )
  terms.TERMS.register(name)(build)


for _name in divergences.DIVERGENCES.names():
  _register(_name)
