"""Converts a student's tokens to the tokenization of its teacher.

The student's ids are converted to bytes, which the teacher's tokenizer encodes.
Ids without text are mapped by their role: BOS, EOS, and the marks that begin
and end a turn. The header after a mark, such as `model` and a line break in
Gemma's turns, is replaced with that of the teacher's chat template.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import numpy as np

from kd.core import errors
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizer_alignment
from kd.input_pipeline import tokenizers

NO_SPAN = -1
_ONE = np.zeros(1, np.int64)  # Span of a piece of one token.
_SAID = 'said'


@dataclasses.dataclass(frozen=True)
class Retokenized:
  """A text in both tokenizations.

  Attributes:
    ids: int64 [m], ids of the teacher.
    spans: int64 [m], index of the aligned span that contains each id, in
      ascending order from 0; NO_SPAN if there is none.
    student_spans: int64 [n], likewise for the student's ids.
  """

  ids: np.ndarray
  spans: np.ndarray
  student_spans: np.ndarray


@dataclasses.dataclass(frozen=True)
class Headers:
  """The text that a template writes after the mark that begins a turn.

  Attributes:
    by_role: headers by role; without 'system' if the template writes a system
      text elsewhere.
    opening: header of the model's last turn.
  """

  by_role: Mapping[str, bytes]
  opening: bytes


@functools.cache
def headers(name: str) -> Headers:
  """Returns the headers of a template that has turns."""
  start = templates.TEMPLATES[name].marks.start
  asked = {'role': 'user', 'content': _SAID}
  chat = [asked, {'role': 'assistant', 'content': _SAID}, asked]

  def written(messages):
    text, _ = templates.render(name, messages)
    return [part.partition(_SAID)[0] for part in text.split(start)[1:]]

  user, model, _ = written(chat)
  *_, opening = written(chat[:2])
  by_role = {'user': user.encode(), 'model': model.encode()}
  told = written([{'role': 'system', 'content': _SAID}, asked])
  if len(told) == 2:
    by_role['system'] = told[0].encode()
  return Headers(by_role, opening.encode())


class Retokenizer:
  """Converts ids of one tokenizer and chat template to those of another."""

  def __init__(
    self,
    student: tokenizers.Tokenizer,
    student_template: str,
    teacher: tokenizers.Tokenizer,
    teacher_template: str,
  ):
    """Maps the special ids by their roles.

    Args:
      student: the student's tokenizer.
      student_template: a name in templates.TEMPLATES.
      teacher: the teacher's tokenizer.
      teacher_template: likewise.

    Raises:
      ConfigError: the teacher's tokenizer cannot write its template, or one
        template has turns and the other has none.
    """
    path = 'teacher.template'
    templates.check_tokenizer(teacher, teacher_template, path)
    marks, others = (
      templates.TEMPLATES[name].marks
      for name in (student_template, teacher_template)
    )
    if (marks is None) != (others is None):
      raise errors.ConfigError(
        path,
        f'found {teacher_template!r}, and data.template is '
        f'{student_template!r}: one has turns, and the other has none',
        legal=templates.with_turns() if marks else "'plain'",
      )
    self._student, self._teacher = student, teacher
    self._first = [] if teacher.bos_id is None else [teacher.bos_id]
    # Maps special ids of the student to the teacher's, except BOS, which is
    # prepended once.
    self._special = {student.eos_id: teacher.eos_id}
    self._start, self._headers = None, None
    if marks:
      for mark, other in zip(marks, others, strict=True):
        self._special[student.id_of(mark)] = teacher.id_of(other)
      if student_template != teacher_template:
        self._start = student.id_of(marks.start)
        self._headers = headers(student_template), headers(teacher_template)
    self._bytes: dict[int, bytes | None] = {}

  def __call__(self, ids: Sequence[int]) -> Retokenized | None:
    """Returns a text in both tokenizations.

    Args:
      ids: the student's ids of an example or of a chunk of a document.

    Returns:
      The text; None if it contains a turn that the teacher's template lacks.
    """
    runs = self._runs(ids)
    starts = [i for i, run in enumerate(runs) if run == [self._start]]
    pieces = [_piece(self._first)]
    for i, run in enumerate(runs):
      cut = b'', b''
      if i and runs[i - 1] == [self._start]:
        cut = self._header(self._join(run), i - 1 == starts[-1])
        if cut is None:
          return None
      pieces.append(self._encoded(run, *cut))
    return _joined(pieces)

  @property
  def roles(self) -> dict[int, int]:
    """Returns the teacher's id of each special id of the student."""
    first = self._student.bos_id, self._teacher.bos_id
    pairs = [*self._special.items(), first]
    return {own: other for own, other in pairs if None not in (own, other)}

  def after(self, text: Retokenized, prefix: Sequence[int]) -> Retokenized:
    """Returns a text with a prefix after its BOS.

    Args:
      text: a result of this object.
      prefix: ids of the teacher, which do not belong to a span.
    """
    at = len(self._first)
    ids = np.insert(text.ids, at, np.asarray(prefix, np.int64))
    spans = np.insert(text.spans, at, np.full(len(prefix), NO_SPAN))
    return dataclasses.replace(text, ids=ids, spans=spans)

  def _bytes_of(self, index):
    if index not in self._bytes:
      is_text = index not in self._special and index != self._student.bos_id
      self._bytes[index] = self._student.bytes_of(index) if is_text else None
    return self._bytes[index]

  def _join(self, run):
    return b''.join(self._bytes_of(i) or b'' for i in run)

  def _runs(self, ids):
    """Divides ids into runs of text and single ids without text."""
    runs, is_open = [], False
    for index in map(int, ids):
      is_text = self._bytes_of(index) is not None
      if is_text and is_open:
        runs[-1].append(index)
      else:
        runs.append([index])
      is_open = is_text
    return runs

  def _header(self, data, is_last):
    """Returns the header at the beginning of data, and the teacher's for it."""
    own, other = self._headers
    known = [*own.by_role.items(), ('model', own.opening)]
    fitting = [(text, role) for role, text in known if data.startswith(text)]
    if not fitting:
      return None
    text, role = max(fitting, key=lambda pair: len(pair[0]))
    if role not in other.by_role:
      return None
    is_opening = is_last and role == 'model'
    return text, other.opening if is_opening else other.by_role[role]

  def _encoded(self, run, own_header, header):
    """Returns a run in both tokenizations with their spans."""
    if self._bytes_of(run[0]) is None:
      if run[0] in self._special:
        return Retokenized(np.array([self._special[run[0]]]), _ONE, _ONE)
      return _piece([], run)
    data = header + self._join(run)[len(own_header) :]
    # Invalid UTF-8 is replaced, and then differs from data below.
    ids = self._teacher.encode(data.decode('utf-8', 'replace'))
    tokens = [self._teacher.bytes_of(i) or b'' for i in ids]
    if b''.join(tokens) != data:
      # The tokenizer alters this text or has no token for it.
      return _piece(ids, run)
    own = tokenizer_alignment.ends(map(self._bytes_of, run)) - len(own_header)
    own_spans, spans = tokenizer_alignment.spans(
      own, tokenizer_alignment.ends(tokens) - len(header)
    )
    return Retokenized(np.array(ids), spans, own_spans)


def _piece(ids: Sequence[int], run: Sequence[int] = ()) -> Retokenized:
  """Returns unaligned ids of the teacher and of the student."""
  return Retokenized(
    np.array(ids, np.int64),
    np.full(len(ids), NO_SPAN),
    np.full(len(run), NO_SPAN),
  )


def _joined(pieces: Sequence[Retokenized]) -> Retokenized:
  """Concatenates pieces, whose spans are numbered from 0 in each piece."""
  count, numbered = 0, []
  for piece in pieces:
    both = piece.spans, piece.student_spans
    spans, own = (np.where(x == NO_SPAN, x, x + count) for x in both)
    numbered.append((piece.ids, spans, own))
    count += 1 + max(piece.student_spans, default=NO_SPAN)
  return Retokenized(*map(np.concatenate, zip(*numbered, strict=True)))
