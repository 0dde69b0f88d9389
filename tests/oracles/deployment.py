"""Kubernetes' schemas and a PromQL parser as oracles.

Usage: python deployment.py COMMAND GIVEN MADE

Reads GIVEN/cases.json, writes MADE/results.json; see client.py. Commands:
  objects: cases are Kubernetes objects; results are their violations of the
    API's schemas, '' if there is none.
  expressions: cases are PromQL; results are the comparison at the end of each
    expression, as [operator, number], or None if there is none.
"""

import json
import os
import sys

import kubernetes_validate
from kubernetes_validate import utils
import promql_parser

# The first version without the beta of autoscaling/v2.
_OLDEST = '1.26'


def _fault(case):
  for version in (_OLDEST, utils.latest_version()):
    try:
      kubernetes_validate.validate(case, version, strict=True)
    except kubernetes_validate.ValidationError as e:
      return f'{version}: {list(e.path)}: {e.message}'
  return ''


def _comparison(case):
  tree = promql_parser.parse(case)
  number = getattr(tree, 'rhs', None)
  if not isinstance(number, promql_parser.NumberLiteral):
    return None
  return [str(tree.op), number.val]


_COMMANDS = {'objects': _fault, 'expressions': _comparison}


def main(command, given, made):
  with open(os.path.join(given, 'cases.json'), encoding='utf-8') as f:
    cases = json.load(f)
  results = list(map(_COMMANDS[command], cases))
  with open(os.path.join(made, 'results.json'), 'w', encoding='utf-8') as f:
    json.dump(results, f)


if __name__ == '__main__':
  main(*sys.argv[1:])
