"""What holds files and lets go of them at the end of a ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

Own = TypeVar("Own", bound="ClosedAtExit")


class ClosedAtExit(ABC):
    """Something whose :meth:`close` is called at the end of a block, whatever ends it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the files."""

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
