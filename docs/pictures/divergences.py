"""Draws what each divergence makes of a teacher with two modes.

  python -m docs.pictures.divergences docs/pictures/divergences.png

The student is a Gaussian over 200 ids, with a mean and a width to learn: it
cannot be the teacher, so the divergence decides what it gives up.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd.core import atomic_files
from kd.losses import divergences

IDS = np.arange(200.0)
# Weight, mean and standard deviation, the last two in ids.
MODES = ((0.6, 45.0, 9.0), (0.4, 120.0, 13.0))

COVER = {
  'forward KL': dict(name='forward_kl'),
  'skewed forward KL\nskew 0.1': dict(name='skewed_forward_kl', skew=0.1),
  'Jensen-Shannon\nbeta 0.1': dict(name='jensen_shannon', beta=0.1),
  'alpha-beta\nalpha 0.5, beta 0.5': dict(
    name='alpha_beta', alpha=0.5, beta=0.5
  ),
  'adaptive KL\nhead mass 0.5': dict(name='adaptive_kl', head_mass=0.5),
}
SEEK = {
  'Jensen-Shannon\nbeta 0.5': dict(name='jensen_shannon', beta=0.5),
  'total variation': dict(name='total_variation'),
  'Jensen-Shannon\nbeta 0.9': dict(name='jensen_shannon', beta=0.9),
  'skewed reverse KL\nskew 0.1': dict(name='skewed_reverse_kl', skew=0.1),
  'reverse KL': dict(name='reverse_kl'),
}

_STEPS = 600
_LEARNING_RATE = 0.05
# Ids to a unit of the mean's parameter, so that it moves as the width's does.
_UNIT = 20.0


def teacher_log_probs():
  """Float32 [200], in nats."""
  density = sum(
    weight / width * np.exp(-0.5 * ((IDS - mean) / width) ** 2)
    for weight, mean, width in MODES
  )
  return jnp.asarray(np.log(density / density.sum()), jnp.float32)


def student_log_probs(mean, width):
  """Float32 [200], in nats, of a Gaussian that is cut off at the ends."""
  return jax.nn.log_softmax(-0.5 * ((IDS - mean) / width) ** 2)


def moments(log_probs):
  """Mean and standard deviation of a distribution over IDS, in ids."""
  p = np.exp(np.asarray(log_probs, np.float64))
  mean = p @ IDS
  return mean, np.sqrt(p @ (IDS - mean) ** 2)


def fit(spec):
  """The student that a divergence ends at: of several starts, the best.

  Args:
    spec: a divergence's name and arguments.

  Returns:
    Its float32 log-probabilities [200], in nats.
  """
  integrand = divergences.DIVERGENCES.build(spec, 'panel').integrand
  log_p = teacher_log_probs()
  optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, _STEPS))

  def log_probs(params):
    return student_log_probs(_UNIT * params[0], jnp.exp(params[1]))

  def loss(params):
    return jnp.sum(integrand(log_p, log_probs(params)))

  def descend(params):
    def step(carry, _):
      params, state = carry
      updates, state = optimizer.update(jax.grad(loss)(params), state)
      return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step, carry, length=_STEPS)
    return params, loss(params)

  starts = [
    (mean / _UNIT, np.log(width))
    for mean in (25, 60, 95, 130)
    for width in (10, 40)
  ]
  params, losses = jax.jit(jax.vmap(descend))(jnp.asarray(starts, jnp.float32))
  return log_probs(params[jnp.argmin(losses)])


def draw(fits, path):
  """Writes a PNG with a panel for each divergence, in their order.

  Args:
    fits: title to the student's log-probabilities [200], ten of them.
    path: the PNG.
  """
  import matplotlib  # Slow to import.

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(
    2, 5, figsize=(10, 4.2), sharex=True, sharey=True
  )
  p = np.exp(teacher_log_probs())
  for axis, (title, log_q) in zip(axes.flat, fits.items(), strict=True):
    axis.fill_between(IDS, p, color='0.8', linewidth=0)
    axis.plot(IDS, np.exp(log_q), color='tab:blue', linewidth=1.8)
    text = dict(transform=axis.transAxes, ha='right', va='top')
    axis.text(1, 1, title, fontsize=9, **text)
    mean_and_sd = 'mean {:.0f}, sd {:.0f}'.format(*moments(log_q))
    axis.text(1, 0.76, mean_and_sd, fontsize=8.5, color='tab:blue', **text)
    axis.spines[['top', 'right', 'left']].set_visible(False)
    axis.set_yticks([])
  axes[0, 0].set_ylim(bottom=0)
  label = dict(fontsize=9, ha='center', va='bottom')
  axes[0, 0].text(MODES[0][1], p.max(), 'teacher', color='0.45', **label)
  axes[0, 0].text(88, 0.0105, 'student', color='tab:blue', **label)
  for axis in axes[1]:
    axis.set_xlabel('id')
  figure.tight_layout()
  atomic_files.write_picture(path, figure, dpi=110)
  pyplot.close(figure)


def main(path):
  draw({title: fit(spec) for title, spec in (COVER | SEEK).items()}, path)


if __name__ == '__main__':
  main(*sys.argv[1:])
