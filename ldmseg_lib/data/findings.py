"""What a conversion finds in its source: faults, which stop it unless they are skipped, and remarks."""

from collections import Counter
from dataclasses import dataclass, field

from ..core.errors import DatasetError

_MOST_LINES = 20


class SourceFault(DatasetError):
    """An object or image of a source that cannot be used; `reason` says in the plural what kind it is of."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class Findings:
    """Faults in the order of the source, and how often each remark is due."""

    faults: list[SourceFault] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)

    def fault(self, reason: str, message: str) -> None:
        """Add a fault; what it is of is left out of the result."""
        self.faults.append(SourceFault(reason, message))

    def remark(self, text: str, count: int = 1) -> None:
        """Add to the count of a remark, a noun in the plural."""
        self.remarks[text] += count

    def extend(self, other: "Findings") -> None:
        """Append those of `other`."""
        self.faults.extend(other.faults)
        self.remarks.update(other.remarks)

    @property
    def by_reason(self) -> str:
        """Faults by their reason, with counts."""
        return ", ".join(f"{count} {reason}" for reason, count in Counter(f.reason for f in self.faults).most_common())

    def require_none(self) -> None:
        """Raise all faults at once.

        Raises:
            DatasetError: there are faults: one line each, after a line of counts where there are several.
        """
        if not self.faults:
            return
        lines = [str(fault) for fault in self.faults[:_MOST_LINES]]
        if len(self.faults) > _MOST_LINES:
            lines.append(f"... and {len(self.faults) - _MOST_LINES} more")
        if len(self.faults) > 1:
            lines.insert(0, f"{len(self.faults)} faults ({self.by_reason}); --skip-faulty converts the rest:")
        raise DatasetError("\n".join(lines))
