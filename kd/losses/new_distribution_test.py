"""A representation of targets from outside of kd, in every loss."""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.config import base
from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import eval_sums
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms

B, L, D, V = 3, 9, 5, 17
SIZES = terms.Sizes(1, 1, 1, 1, 1, 1.0, (None,))
TERMS = {
  'ce': base.term('cross_entropy', weight=0.3),
  'kl': base.term('forward_kl', temperature=2.0),
  'js': base.term('jensen_shannon', part='answer', clip=1.0),
  'ak': base.term('adaptive_kl'),
}


@struct.dataclass
class LogProbabilities(
  distributions.Distribution, distributions.TokenDistribution
):
  """All of a teacher's log-probabilities, one array."""

  log_p: jax.Array

  @property
  def num_teachers(self):
    return 1

  def per_position(self):
    return self.log_p

  def with_positions(self, arrays):
    return LogProbabilities(arrays)

  def project(self, vocab_size):
    del vocab_size
    return self

  def pair(self, student, temperature):
    total = jax.nn.logsumexp(student, axis=-1, keepdims=True)
    return distributions.Pair(
      jax.nn.log_softmax(self.log_p / temperature),
      jax.nn.log_softmax(student / temperature),
      None,
      distributions.Normalizers((self._sum(),), total),
    )

  def entropy(self):
    entropy = -jnp.sum(jnp.exp(self.log_p) * self.log_p, axis=-1)
    return entropy, jnp.isfinite(self._sum())

  def _sum(self):
    return jnp.sum(self.log_p, axis=-1, keepdims=True)


def _case():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  weights = rng.uniform(0.5, 2, (B, L)) * (rng.uniform(size=(B, L)) < 0.7)
  zeros = np.zeros((B, L), np.int32)
  batch = types.Batch(
    tokens=zeros,
    targets=rng.integers(0, V, (B, L), dtype=np.int32),
    positions=zeros,
    segment_ids=zeros + 1,
    parts=rng.integers(0, 3, (B, L), dtype=np.int32),
    weights=weights.astype(np.float32),
    row_id=np.arange(B, dtype=np.int32),
  )
  teacher = dense_distributions.DenseTeacher(
    normal(B, L, D), normal(V, D), jnp.ones(())
  )
  logits = teacher.final_hidden @ teacher.unembedding.T
  both = (
    dense_distributions.DenseMixture((teacher,)),
    LogProbabilities(jax.nn.log_softmax(logits)),
  )
  return normal(B, L, D), normal(V, D), both, batch


@pytest.mark.parametrize('rule', ['all', 'teacher_entropy'])
def test_a_new_kind_of_targets_needs_only_one_class(rule):
  hidden, unembedding, both, batch = _case()
  fraction = 1.0 if rule == 'all' else 0.5
  objective = objective_lib.Objective(
    term_builder.build(
      {key: spec.to_dict() for key, spec in TERMS.items()},
      terms.Context(steps=1, student=SIZES, teacher=SIZES),
    ),
    selection.build({'rule': rule, 'fraction': fraction}, '', 1),
    chunk_tokens=6,
  )
  settings = objective.settings(batch, 0)

  @jax.jit
  def run(hidden, distribution):
    def total(hidden):
      student = objective_lib.Student(hidden, unembedding, None, {}, {})
      targets = distributions.Targets(distribution, None)
      key = jax.random.key(0)
      return objective(student, targets, batch, settings, key)

    return jax.value_and_grad(total, has_aux=True)(hidden)

  expected, got = (run(hidden, distribution) for distribution in both)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6),
    got,
    expected,
  )
  row, position = np.argwhere(batch.weights > 0)[0]
  log_p = both[1].log_p.at[row, position].set(jnp.nan)
  (loss, sums), _ = run(hidden, both[1].replace(log_p=log_p))
  assert np.isnan(loss) and sums.nonfinite[0] >= 1


def test_evaluation_supports_a_new_kind_of_targets():
  hidden, unembedding, both, batch = _case()
  expected, got = (
    eval_sums.by_row(
      hidden, unembedding, distributions.Targets(x, None), batch, 6
    )
    for x in both
  )
  for key, value in expected.items():
    np.testing.assert_allclose(got[key], value, rtol=2e-5, atol=1e-6)
