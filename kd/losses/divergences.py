"""Divergences between next-token distributions of teacher and student.

A divergence is an integrand: a pure function of log-probabilities `log_p`
(teacher) and `log_q` (student), float32 [..., V] in nats, that returns
nonnegative contributions [..., V]. Their sum over V is the divergence. The last
axis is a whole distribution: all V ids, or K ids and one outcome with the
probability of all other ids.

Contributions are Bregman-like: the linear term q - p, whose sum over a
distribution is 0, is added to the textbook form p (log p - log q). Contribution
and derivative with respect to log_q are therefore exactly 0 where log_p and
log_q have equal bits, even -inf, and a rounded normalizer changes them only in
second order.

Log-probabilities below LOG_FLOOR are raised to LOG_FLOOR: an id that one model
excludes costs up to 1e5 nats where KL would be infinite. A log-probability of
NaN or +inf results in NaN. The teacher gets no gradient.
"""

from collections.abc import Callable
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from kd.core import bounds
from kd.core import errors
from kd.core import probability
from kd.core import registry
from kd.core import types

Array = types.Array

DIVERGENCES = registry.Registry('divergence')

# In nats. Logits that differ by 1e4 are still distinct at temperature 0.1.
LOG_FLOOR = -1e5

# Below this difference of log-probabilities, contributions are computed by a
# power series, since differences of probabilities would cancel.
_CLOSE = 0.25
_SERIES_TERMS = 6


@dataclasses.dataclass(frozen=True)
class Divergence:
  """A divergence and its properties.

  Attributes:
    integrand: maps (log_p, log_q), float32 [..., V] in nats, to contributions
      [..., V] whose sum over V is the divergence. Differentiable in log_q.
    temperature_power: power of the temperature T that multiplies the loss, so
      that the gradient with respect to logits keeps its scale as T grows: 2 if
      the divergence is quadratic near log_p = log_q (arXiv 1503.02531, section
      2), 1 if it is linear.
    needs_whole_distribution: whether a contribution depends on the other ids,
      so that sums over subsets of ids cannot be added.
    slopes_cancel: whether derivatives with respect to log_q sum to 0 over a
      whole distribution, so that they need not be summed.
    sampled_integrand: replaces the integrand where the outcomes are samples
      from the teacher.
  """

  integrand: Callable[[Array, Array], Array]
  temperature_power: int
  needs_whole_distribution: bool
  slopes_cancel: bool
  sampled_integrand: Callable[[Array, Array], Array]


def build(
  both: Callable[[Array, Array], tuple[Array, Array]],
  *,
  temperature_power: int = 2,
  needs_whole_distribution: bool = False,
  slopes_cancel: bool = False,
  sampled_integrand: Callable[[Array, Array], Array] | None = None,
) -> Divergence:
  """Builds a Divergence from its value and slope.

  Args:
    both: maps (log_p, log_q), none below LOG_FLOOR, to the contributions and
      the derivatives of their sum with respect to log_q.
    temperature_power: see Divergence.
    needs_whole_distribution: see Divergence.
    slopes_cancel: see Divergence.
    sampled_integrand: see Divergence; None for the integrand itself.
  """

  def clamped(log_p, log_q):
    return both(
      bounds.at_least(log_p, LOG_FLOOR), bounds.at_least(log_q, LOG_FLOOR)
    )

  @jax.custom_jvp
  def integrand(log_p, log_q):
    return clamped(log_p, log_q)[0]

  @integrand.defjvp
  def integrand_jvp(primals, tangents):
    value, slope = clamped(*primals)
    return value, slope * tangents[1]

  return Divergence(
    integrand,
    temperature_power,
    needs_whole_distribution,
    slopes_cancel,
    sampled_integrand or integrand,
  )


def _horner(x, coefficients):
  """Evaluates a polynomial, given its coefficients in ascending order."""
  result = coefficients[-1]
  for coefficient in coefficients[-2::-1]:
    result = result * x + coefficient
  return result


def _series(alpha, beta):
  """Returns Taylor coefficients of 2 h(d) / d^2 in d = log p - log q.

  The alpha-beta contribution is p^s h(d) with s = alpha + beta and h(d) = sum
  over k >= 2 of (-d)^k / k! (s^(k-1) - beta^(k-1)) / alpha.
  """
  total = alpha + beta
  return [
    2
    * (-1) ** k
    / math.factorial(k)
    * sum(total ** (k - 2 - j) * beta**j for j in range(k - 1))
    for k in range(2, 2 + _SERIES_TERMS)
  ]


_KL_SERIES = _series(1.0, 0.0)


def _kl(x, y, gap):
  """Computes contributions to KL(x || y); `gap` is log x - log y."""
  close = 0.5 * gap * gap * x * _horner(gap, _KL_SERIES)
  far = bounds.at_least(x * gap - x + y, 0.0)
  return jnp.where(jnp.abs(gap) < _CLOSE, close, far)


def _minus(x, y, gap):
  """Computes x - y, exactly 0 where log x - log y is 0.

  The compiler may round the exponentials differently in separate loops.
  """
  return jnp.where(gap == 0, 0.0, x - y)


def _forward_kl(log_p, log_q):
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  gap = log_p - log_q
  return _kl(p, q, gap), _minus(q, p, gap)


def _sampled_forward_kl(log_p, log_q):
  """Computes the textbook form p (log p - log q).

  The gradient of its weighted sum is q minus the sampled distribution, which is
  bounded. Gemma 3 was trained this way (arXiv 2503.19786, section 2.2; arXiv
  2503.16870).
  """
  return jnp.exp(log_p) * (log_p - log_q)


def _reverse_kl(log_p, log_q):
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  gap = log_q - log_p
  return _kl(q, p, gap), q * gap


def _mixture_gap(gap, weight):
  """Computes log x - log m for m = (1 - weight) x + weight y.

  `gap` is log x - log y; where it is 0 the result is exactly 0.
  """
  excess = weight * jnp.expm1(-gap)  # m / x - 1; inf where x is tiny next to y.
  is_x_high = gap > 0
  high = jnp.where(is_x_high, 1 - weight, weight)
  low = jnp.where(is_x_high, weight, 1 - weight)
  # Above 0 even where float32 rounds the weight of the higher one to 0.
  log_m = jnp.log(high + low * jnp.exp(bounds.at_least(-jnp.abs(gap), -80.0)))
  return jnp.where(
    jnp.abs(excess) < 0.5,
    -jnp.log1p(excess),
    bounds.at_most(gap, 0.0) - log_m,
  )


def _jensen_shannon(log_p, log_q, beta):
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  gap = log_p - log_q
  p_gap, q_gap = _mixture_gap(gap, 1 - beta), _mixture_gap(-gap, beta)
  m = beta * p + (1 - beta) * q
  value = beta * _kl(p, m, p_gap) + (1 - beta) * _kl(q, m, q_gap)
  return value, (1 - beta) * q * q_gap


def _skewed_forward_kl(log_p, log_q, skew):
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  gap = _mixture_gap(log_p - log_q, 1 - skew)
  value = _kl(p, skew * p + (1 - skew) * q, gap)
  return value, -(1 - skew) * q * jnp.expm1(gap)


def _skewed_reverse_kl(log_p, log_q, skew):
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  gap = _mixture_gap(log_q - log_p, 1 - skew)
  value = _kl(q, skew * q + (1 - skew) * p, gap)
  return value, q * (gap - skew * jnp.expm1(gap))


def _total_variation(log_p, log_q):
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  gap = log_q - log_p
  return 0.5 * jnp.abs(_minus(q, p, gap)), 0.5 * jnp.sign(gap) * q


def _alpha_beta(log_p, log_q, alpha, beta):
  """Factors out the larger of p and q, so that no power overflows."""
  total = alpha + beta
  distance = jnp.abs(log_p - log_q)
  is_p_high = log_p >= log_q
  scale = jnp.exp(total * jnp.where(is_p_high, log_p, log_q))

  def drop(power):
    """Computes (1 - exp(-power distance)) / power, or its limit at power 0."""
    if power < 1e-9:
      return distance
    return -jnp.expm1(-power * distance) / power

  drop_a, drop_b = drop(alpha), drop(beta)
  low_a = jnp.exp(-alpha * distance)
  low_b = jnp.exp(-beta * distance)
  far = jnp.where(is_p_high, drop_b - low_b * drop_a, drop_a - low_a * drop_b)
  # Exchanging p and q exchanges alpha and beta.
  pairs = zip(_series(alpha, beta), _series(beta, alpha), strict=True)
  coefficients = [jnp.where(is_p_high, *pair) for pair in pairs]
  close = 0.5 * distance * distance * _horner(distance, coefficients)
  value = scale * jnp.where(
    total * distance < _CLOSE, close, bounds.at_least(far / total, 0.0)
  )
  return value, scale * drop_a * jnp.where(is_p_high, -low_b, 1.0)


def _adaptive_kl(log_p, log_q, head_mass):
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  distance = jnp.abs(_minus(p, q, log_p - log_q))
  in_head = probability.in_nucleus(p, head_mass)
  total = jnp.sum(distance, axis=-1, keepdims=True)
  head = jnp.sum(jnp.where(in_head, distance, 0.0), axis=-1, keepdims=True)
  weight = jnp.where(total > 0, head / jnp.where(total > 0, total, 1.0), 0.5)
  forward, forward_slope = _forward_kl(log_p, log_q)
  reverse, reverse_slope = _reverse_kl(log_p, log_q)
  value = weight * forward + (1 - weight) * reverse
  return value, weight * forward_slope + (1 - weight) * reverse_slope


def _check(name, value, is_legal, legal):
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not math.isfinite(value) or not is_legal(value):
    raise errors.ConfigError(name, f'found {value!r}', legal=legal)


@DIVERGENCES.register('forward_kl')
def forward_kl():
  """Returns KL(p || q): mode-covering (arXiv 1503.02531)."""
  return build(
    _forward_kl,
    slopes_cancel=True,  # They sum to the sum of q - p.
    sampled_integrand=_sampled_forward_kl,
  )


@DIVERGENCES.register('reverse_kl')
def reverse_kl():
  """Returns KL(q || p): mode-seeking (arXiv 2306.08543)."""
  return build(_reverse_kl)


@DIVERGENCES.register('jensen_shannon')
def jensen_shannon(*, beta: float):
  """Returns beta KL(p || m) + (1 - beta) KL(q || m).

  Here m = beta p + (1 - beta) q (arXiv 2306.13649). It is at most log 2.
  Divided by beta it approaches the forward KL as beta approaches 0; divided by
  1 - beta it approaches the reverse KL as beta approaches 1.

  Raises:
    ConfigError: beta is not between 0 and 1.
  """
  legal = 'above 0 and below 1; for 0 take forward_kl, for 1 reverse_kl'
  _check('beta', beta, lambda x: 0 < x < 1, legal)
  return build(functools.partial(_jensen_shannon, beta=beta))


_SKEW = '0 or more and below 1; 0 is no skew'


@DIVERGENCES.register('skewed_forward_kl')
def skewed_forward_kl(*, skew: float):
  """Returns KL(p || skew p + (1 - skew) q), at most -log(skew).

  See arXiv 2402.03898.

  Raises:
    ConfigError: skew is below 0, or 1 or more.
  """
  _check('skew', skew, lambda x: 0 <= x < 1, _SKEW)
  if skew == 0:
    return forward_kl()
  return build(functools.partial(_skewed_forward_kl, skew=skew))


@DIVERGENCES.register('skewed_reverse_kl')
def skewed_reverse_kl(*, skew: float):
  """Returns KL(q || skew q + (1 - skew) p), at most -log(skew).

  See arXiv 2402.03898.

  Raises:
    ConfigError: skew is below 0, or 1 or more.
  """
  _check('skew', skew, lambda x: 0 <= x < 1, _SKEW)
  if skew == 0:
    return build(_reverse_kl)
  return build(functools.partial(_skewed_reverse_kl, skew=skew))


@DIVERGENCES.register('total_variation')
def total_variation():
  """Returns half the sum of |p - q|, at most 1 (arXiv 2307.15190)."""
  return build(_total_variation, temperature_power=1)


@DIVERGENCES.register('alpha_beta')
def alpha_beta(*, alpha: float, beta: float):
  """Returns the alpha-beta divergence (arXiv 2505.04560).

  With s = alpha + beta, it is the sum over ids of (alpha/s p^s + beta/s q^s -
  p^alpha q^beta) / (alpha beta), with limits where alpha or beta is 0 (Cichocki
  et al., 2011): (1, 0) is the forward KL, (0, 1) the reverse KL, (1/2, 1/2)
  four times the squared Hellinger distance, and (1, 1) half the squared
  Euclidean distance.

  Raises:
    ConfigError: alpha or beta is below 0, or both are 0.
  """
  legal = '0 or more, and alpha + beta above 0'
  _check('alpha', alpha, lambda x: x >= 0, legal)
  _check('beta', beta, lambda x: x >= 0 and alpha + x > 0, legal)
  both = functools.partial(_alpha_beta, alpha=float(alpha), beta=float(beta))
  return build(both)


@DIVERGENCES.register('adaptive_kl')
def adaptive_kl(*, head_mass: float):
  """Returns a mean of forward and reverse KL, weighted at each position.

  The weight of the forward KL (arXiv 2404.02657) is the fraction of the sum of
  |p - q| in the head, the smallest set of the teacher's most likely ids with
  `head_mass` (0.5 in the paper) of its probability, including ids that tie with
  the least likely one. The weights carry no gradient.

  Raises:
    ConfigError: head_mass is not between 0 and 1.
  """
  _check('head_mass', head_mass, lambda x: 0 < x < 1, 'above 0 and below 1')
  both = functools.partial(_adaptive_kl, head_mass=head_mass)
  return build(both, needs_whole_distribution=True)
