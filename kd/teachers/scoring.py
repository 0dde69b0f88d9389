"""A teacher's pass over rows, down to what a cache keeps of it."""

from collections.abc import Callable, Sequence

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import chunks
from kd.losses import dense_distributions
from kd.models import gemma3
from kd.partitioning import rules
from kd.teachers import blockwise_topk
from kd.teachers import compression
from kd.teachers import live

Array = types.Array


@struct.dataclass
class Scored:
  """What is known of each target of [B, L] whose weight is not 0.

  Attributes:
    kept: what the method keeps.
    target_logprob: float32, of the true next token.
    log_normalizer: float32, log of the sum of exp(logits); 0, but for rounding,
      of several teachers, whose mixture has no logits.
    entropy: float32, in nats, of what is kept: at most the teacher's own; an
      estimate of it where ids were drawn.
    dropped_mass: float32, of the ids that are left out: those from `vocab_size`
      on.
    finite: bool [..., n], whether each of n teachers' logits are finite.
  """

  kept: compression.Kept
  target_logprob: Array
  log_normalizer: Array
  entropy: Array
  dropped_mass: Array
  finite: Array


def make(
  teachers: Sequence[live.Teacher],
  method: compression.Method,
  vocab_size: int,
  chunk_tokens: int,
  seed: int,
) -> Callable[[types.Batch], Scored]:
  """Returns the function from a batch to what is kept of it.

  What is drawn depends on the seed, the row and the place in it alone.

  Args:
    teachers: one, or those of a mixture.
    method: what is kept.
    vocab_size: V, ids that count: that the student has, or the tokenizer.
    chunk_tokens: tokens a device whose logits exist at one time.
    seed: of what is drawn.
  """
  weights = [t.weight for t in teachers]
  modules = [t.model for t in teachers]
  params = [t.params for t in teachers]
  mesh = jax.tree.leaves(params)[0].sharding.mesh

  @jax.jit
  def score(params, batch):
    nothing = types.TapSpec((), ())
    hidden = [
      gemma3.forward(module, p, batch, nothing)[0]
      for module, p in zip(modules, params, strict=True)
    ]
    tables = [p['embedding'] for p in params]

    def look(chunk):
      return _look(chunk, tables, weights, method, vocab_size)

    layout = chunks.Layout(batch.weights, chunk_tokens)
    arrays = (hidden, batch.targets, _keys(batch, seed))
    whole = jax.tree.map(
      lambda x: jnp.zeros((*batch.targets.shape, *x.shape[1:]), x.dtype),
      jax.eval_shape(lambda: look(layout.take(arrays, 0))),
    )

    def body(whole, chunk, index):
      put = lambda w, part: layout.put(w, part, index)
      return jax.tree.map(put, whole, look(chunk))

    found = chunks.fold(body, whole, layout, arrays)
    # Each process reads whole rows of its own.
    return jax.tree.map(
      lambda x: rules.constrain(x, ('batch',) + (None,) * (x.ndim - 1)), found
    )

  def run(batch):
    with rules.active(mesh):
      return score(params, batch)

  return run


def _keys(batch, seed):
  """Raw keys uint32 [B, L, 2]: the seed's, by row and by place in it."""
  key = jax.random.key(seed)
  places = jnp.arange(batch.targets.shape[1])
  of = lambda row, place: jax.random.key_data(
    jax.random.fold_in(jax.random.fold_in(key, row), place)
  )
  by_place = jax.vmap(of, (None, 0))
  return jax.vmap(by_place, (0, None))(batch.row_id, places)


def _look(chunk, tables, weights, method, vocab_size):
  """Scored of a chunk's tokens [T, ...]."""
  hidden, targets, keys = chunk
  logits = [
    chunks.project(h, table) for h, table in zip(hidden, tables, strict=True)
  ]
  size = min(vocab_size, *(x.shape[-1] for x in logits))
  one, sums = _one(logits, weights, size)
  seen = blockwise_topk.look(one)
  at_target = jnp.take_along_axis(
    seen.logits.reshape(targets.size, -1), targets[:, None], axis=1
  )
  normalizer = seen.log_normalizer
  alone = len(logits) == 1
  if alone:
    sums = (normalizer[:, None],)
  kept = method.keep(
    compression.Seen(
      hidden=hidden[0] if alone else None,
      blocks=seen,
      keys=jax.random.wrap_key_data(keys),
    )
  )
  dropped = _dropped_mass(logits, size)
  return Scored(
    kept=kept,
    target_logprob=at_target[:, 0] - normalizer,
    log_normalizer=normalizer,
    entropy=method.sparse(kept).entropy()[0]
    if method.entries
    else seen.entropy,
    dropped_mass=jnp.sum(dropped * jnp.array(weights), axis=-1),
    # Also of the logits that are left out: they tell of a broken teacher.
    finite=jnp.isfinite(jnp.concatenate(sums, axis=-1) + dropped),
  )


def _dropped_mass(logits, size):
  """Returns each teacher's mass on ids from `size` on: float32 [T, n].

  It is NaN where a logit of these ids is NaN or +inf.
  """

  def of(x):
    if x.shape[-1] <= size:
      return jnp.zeros(x.shape[0], jnp.float32)
    beyond = jax.nn.logsumexp(x[:, size:], axis=-1)
    whole = jnp.logaddexp(jax.nn.logsumexp(x[:, :size], axis=-1), beyond)
    return jnp.exp(beyond - whole)

  return jnp.stack([of(x) for x in logits], axis=-1)


def _one(logits, weights, size):
  """Returns the logits of one teacher, or the log-probabilities of a mixture of
  several and the normalizer of each.
  """
  if len(logits) == 1:
    return logits[0][:, :size], ()
  teachers = tuple(
    dense_distributions.TeacherLogits(x, jnp.float32(weight))
    for x, weight in zip(logits, weights, strict=True)
  )
  mixture = dense_distributions.MixtureLogits(teachers)
  unit = jnp.float32(1.0)
  sums = mixture.log_sums(size, unit)
  return mixture.log_probabilities(sums, size, unit), sums
