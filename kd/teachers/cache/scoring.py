"""Scores rows with teachers and compresses the results for a cache."""

from collections.abc import Callable, Sequence

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import chunks
from kd.losses import dense_distributions
from kd.partitioning import rules
from kd.teachers import live
from kd.teachers.cache import blockwise_topk
from kd.teachers.cache import compression

Array = types.Array


@struct.dataclass
class Scored:
  """Scores at positions [B, L]; zeros where no target counts.

  Attributes:
    compressed: the compressed outputs.
    target_logprob: float32, the log-probability of the true next token.
    log_normalizer: float32, log of the sum of exp(logits); 0 up to rounding for
      several teachers, whose mixture has only log-probabilities.
    entropy: float32, entropy of the compressed distribution in nats, at most
      the teacher's own; an estimate of it if ids were drawn.
    dropped_mass: float32, the probability of ids from `vocab_size` on, which
      are left out.
    finite: bool [..., n], whether each of n teachers' logits are finite.
  """

  compressed: compression.Compressed
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
  """Returns the function that scores a batch.

  Random draws depend only on the seed, the row and the position in it.

  Args:
    teachers: one teacher, or the teachers of a mixture.
    method: the compression method.
    vocab_size: V, the number of ids of the student or the tokenizer.
    chunk_tokens: tokens per device whose logits are in memory at a time.
    seed: seed of the random draws.
  """
  weights = [t.weight for t in teachers]
  modules = [t.model for t in teachers]
  params = [t.params for t in teachers]
  mesh = jax.tree.leaves(params)[0].sharding.mesh

  @jax.jit
  def score(params, batch):
    hidden = [
      live.forward(module, p, batch, live.NO_TAPS, number)[0]
      for number, (module, p) in enumerate(zip(modules, params, strict=True))
    ]
    tables = [
      module.unembedding(p) for module, p in zip(modules, params, strict=True)
    ]

    def score_chunk(chunk):
      return _score_tokens(chunk, tables, weights, method, vocab_size)

    layout = chunks.Layout(batch.weights, chunk_tokens)
    keys = _keys(batch, seed)
    arrays = (hidden, batch.targets, keys, batch.teacher_weights)
    whole = jax.tree.map(
      lambda x: jnp.zeros((*batch.targets.shape, *x.shape[1:]), x.dtype),
      jax.eval_shape(lambda: score_chunk(layout.take(arrays, 0))),
    )

    def body(whole, chunk, index):
      put = lambda w, new: layout.put(w, new, index)
      return jax.tree.map(put, whole, score_chunk(chunk))

    scored = chunks.fold(body, whole, layout, arrays)
    # Each process reads the rows on its devices.
    return jax.tree.map(
      lambda x: rules.constrain(x, ('batch',) + (None,) * (x.ndim - 1)), scored
    )

  def run(batch):
    with rules.active(mesh):
      return score(params, batch)

  return run


def _keys(batch, seed):
  """Returns raw keys, uint32 [B, L, 2], by seed, row and position."""
  key = jax.random.key(seed)
  positions = jnp.arange(batch.targets.shape[1])
  one = lambda row, position: jax.random.key_data(
    jax.random.fold_in(jax.random.fold_in(key, row), position)
  )
  of_row = jax.vmap(one, (None, 0))
  return jax.vmap(of_row, (0, None))(batch.row_id, positions)


def _score_tokens(chunk, tables, weights, method, vocab_size):
  """Scores a chunk's tokens; fields have shape [T, ...]."""
  hidden, targets, keys, position_weights = chunk
  weights = [jnp.float32(weight) for weight in weights]
  if position_weights is not None:
    weights = dense_distributions.by_teacher(position_weights)
  logits = [
    chunks.project(h, table) for h, table in zip(hidden, tables, strict=True)
  ]
  size = min(vocab_size, *(x.shape[-1] for x in logits))
  mixed, sums = _mix(logits, weights, size)
  blocks = blockwise_topk.split(mixed)
  at_target = jnp.take_along_axis(
    blocks.logits.reshape(targets.size, -1), targets[:, None], axis=1
  )
  normalizer = blocks.log_normalizer
  alone = len(logits) == 1
  if alone:
    sums = (normalizer[:, None],)
  compressed = method.compress(
    compression.TokenOutputs(
      hidden=hidden[0] if alone else None,
      blocks=blocks,
      keys=jax.random.wrap_key_data(keys),
    )
  )
  dropped = _dropped_mass(logits, size)
  if method.entries:
    entropy, _ = method.sparse(compressed).entropy()
  else:
    entropy = blocks.entropy
  return Scored(
    compressed=compressed,
    target_logprob=at_target[:, 0] - normalizer,
    log_normalizer=normalizer,
    entropy=entropy,
    dropped_mass=jnp.sum(dropped * jnp.stack(weights, axis=-1), axis=-1),
    # Also check the dropped logits: NaN there means a broken teacher too.
    finite=jnp.isfinite(jnp.concatenate(sums, axis=-1) + dropped),
  )


def _dropped_mass(logits, size):
  """Returns each teacher's mass on ids from `size` on: float32 [T, n].

  It is NaN if a logit of these ids is NaN or +inf.
  """

  def of(x):
    if x.shape[-1] <= size:
      return jnp.zeros(x.shape[0], jnp.float32)
    beyond = jax.nn.logsumexp(x[:, size:], axis=-1)
    whole = jnp.logaddexp(jax.nn.logsumexp(x[:, :size], axis=-1), beyond)
    return jnp.exp(beyond - whole)

  return jnp.stack([of(x) for x in logits], axis=-1)


def _mix(logits, weights, size):
  """Returns one teacher's logits, or a mixture's log-probabilities.

  For a mixture, the second result has the log-normalizer of each teacher.
  """
  if len(logits) == 1:
    return logits[0][:, :size], ()
  teachers = tuple(
    dense_distributions.TeacherLogits(x, weight)
    for x, weight in zip(logits, weights, strict=True)
  )
  mixture = dense_distributions.MixtureLogits(teachers)
  unit = jnp.float32(1.0)
  sums = mixture.log_sums(size, unit)
  return mixture.log_probabilities(sums, size, unit), sums
