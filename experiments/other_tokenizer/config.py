"""The quickstart with a student that reads digits in groups.

  python -m experiments.other_tokenizer.train_tokenizer /tmp/kd-digits.model
  python -m kd \
      --config=experiments/other_tokenizer/config.py:/tmp/kd-digits.model \
      --workdir=/tmp/kd-other-tokenizer

The teacher is the quickstart's, which reads bytes. A comma and a loss may
follow the file, as in /tmp/kd-digits.model,uld+labels: +labels adds
cross-entropy. The baseline is trained with labels only, on the same rows and
steps.
"""

from kd.config import base
from kd.configs import quickstart


def get_config(tokenizer_and_loss='/tmp/kd-digits.model'):
  tokenizer, _, loss = tokenizer_and_loss.partition(',')
  name, plus, _ = loss.partition('+')
  c = quickstart.get_config()
  c.data.tokenizer = f'model:{tokenizer}'
  c.teacher.tokenizer = 'own'
  c.teacher.length = 256
  c.losses = dict(teacher=base.term(name or 'chunk_likelihood'))
  if plus:
    c.losses.labels = base.term('cross_entropy')
  return c
