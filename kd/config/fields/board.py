"""Fields of the table of runs and of its web page."""

from kd.config import legal
from kd.config import schema

F = schema.Field

BOARD = schema.Section(
  'Tables and pages of runs (`kd runs`, `kd board`, docs/board.md).',
  {
    'where': F(
      '',
      legal.TEXT,
      'runs to list: an SQL condition on columns, such as '
      "config.optimizer.lr.peak > 1e-4 and status = 'finished'; '': all",
    ),
    'metric': F(
      '',
      legal.TEXT,
      "metric of which the best value is listed; '': the NLL of the first "
      'held-out set',
    ),
    'direction': F(
      'auto',
      legal.one_of('auto', 'min', 'max'),
      'whether low or high values of the metric are good; auto: '
      'evaluation.best.direction',
    ),
    'sort': F(
      '',
      legal.TEXT,
      "column to sort by, -NAME for descending order; '': by the metric if "
      'board.metric names one, else the latest first',
    ),
    'columns': F(
      (), legal.Tuple(legal.TEXT), 'more columns of the table of `kd runs`'
    ),
    'output': F(
      'table',
      legal.one_of('table', 'differences', 'json'),
      'what `kd runs` prints; differences: those of each config from the first',
    ),
    'port': F(
      8466,
      legal.Integer(0, 65535),
      'port of 127.0.0.1 that `kd board` listens on; 0: any free one',
    ),
    'models': F(
      (),
      legal.Tuple(
        legal.Matching(r'https?://\S+', 'the URL of a server, with its /v1')
      ),
      'OpenAI-compatible servers whose models the page "Chat" offers, such as '
      'http://127.0.0.1:8000/v1',
    ),
  },
)
