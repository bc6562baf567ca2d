"""Every error that bnexp raises on purpose.

::

    BnexpError
      UsageError              the command asks for something that cannot be done
        SpecError             the YAML file or an override is wrong; carries every Problem at once
        DataError             a data set is missing, malformed or unusable
        ResultsError          a results folder is missing, empty or belongs to another study
        DeviceUnavailable     the device that was asked for is not there
      DamagedResults          a results folder is damaged, or newer than this version
      StorageError            the disk refused a write
      FolderInUse             another process is writing into the results folder
      DeviceLost              the device failed or ran out of memory while training
      TrainingFailed          a shard raised: a bug, the other shards are kept

The command line maps these classes to exit codes; nothing else does.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from bnexp.spec import DataFields, Spec


class BnexpError(Exception):
    """Base class: the message says what is wrong, where, and what to do next."""


class Terminated(BaseException):
    """SIGTERM arrived: as KeyboardInterrupt, no error."""


class UsageError(BnexpError):
    """The command asks for something that cannot be done as asked."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a spec, or with kind ``warning`` what is allowed and probably not meant.

    ``where`` is ``file:line:column`` or ``override 'text'``; ``path`` the dotted field; ``line`` and ``column``, from
    1, locate the source line that is shown with a caret.
    """

    where: str
    path: str
    message: str
    line: str | None = None
    column: int | None = None
    kind: str = "error"

    @classmethod
    def pointing(cls, where: str, path: str, message: str, text: str, column: int, width: int = 100) -> Self:
        """A problem at a column (from 1) of a line, which is cut around it; control characters become spaces."""
        start = max(0, column - width // 2) if len(text) > width else 0
        shown = "".join(char if char.isprintable() else " " for char in text[start : start + width])
        return cls(where, path, message, shown, column - start)

    @property
    def position(self) -> tuple[int, int, int]:
        """By which problems are sorted: those of the file by line and column, then all others."""
        match = re.search(r":(\d+):(\d+)$", self.where)
        return (0, int(match[1]), int(match[2])) if match else (1, 0, 0)

    def __str__(self) -> str:
        field = f"{self.path}: " if self.path else ""
        text = f"{self.where}: {self.kind}: {field}{self.message}"
        if self.line is None or self.column is None:
            return text
        # A wide letter takes two columns.
        before = sum(
            2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in self.line[: self.column - 1]
        )
        return f"{text}\n    {self.line}\n    {' ' * (before + max(0, self.column - 1 - len(self.line)))}^"


class Problems(list[Problem]):
    """Problems as they are found; of so many that nobody reads them all, raises those found so far."""

    MOST = 50

    def append(self, problem: Problem) -> None:
        """Add one that is not there yet; raise SpecError if it is one too many."""
        if problem in self:
            return
        if len(self) >= self.MOST:
            raise SpecError([*self, replace(problem, message=f"and more: only the first {self.MOST} are looked for")])
        super().append(problem)

    def extend(self, problems: Iterable[Problem]) -> None:
        """Add several."""
        for problem in problems:
            self.append(problem)

    def __iadd__(self, problems: Iterable[Problem]) -> Self:  # type: ignore[override, misc]
        self.extend(problems)
        return self


class SpecError(UsageError):
    """A spec or an override is wrong; all problems are reported together, and ``faults`` of its data files.

    ``data``: the data sets that it names without a mistake. ``sound``: the same spec without the claims that are wrong,
    where nothing else is.
    """

    def __init__(
        self, problems: Iterable[Problem], faults: str = "", data: Iterable[DataFields] = (), sound: Spec | None = None
    ) -> None:
        self.problems, self.data, self.sound = tuple(problems), tuple(data), sound
        super().__init__("\n".join([*map(str, self.problems), *([faults] if faults else [])]))


class DataError(UsageError):
    """A data set is missing, malformed or unusable."""


class ResultsError(UsageError):
    """A results folder is missing, empty, or belongs to another study."""


class DeviceUnavailable(UsageError):
    """The device that was asked for is not there."""


class DamagedResults(BnexpError):
    """A results folder is damaged, or was written by a newer version."""


class StorageError(BnexpError):
    """The disk refused a write."""


class FolderInUse(BnexpError):
    """Another process is writing into the results folder."""


class DeviceLost(BnexpError):
    """The device failed or ran out of memory while training."""


class TrainingFailed(BnexpError):
    """A shard raised an exception; finished shards are kept."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
