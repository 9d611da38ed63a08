"""How far a run has come and how large its steps are: a function of the step and of stored decisions, never of the clock.

The clock is only asked when the run is planned anew (``replan``). What comes out of it is stored as a mark, so that a run
that was interrupted goes on with exactly the steps it would have taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Share of the run in which the learning rate rises from 0: keeps the first steps of AdamW from running wild.
WARM_UP_SHARE = 0.03
# The learning rate ends here, as a share of its peak.
LOWEST_SHARE = 1e-3
# "More epochs": learning goes back to the step size of this share of the run, and from there to the end once more.
BACK_TO = 0.8

# A run is planned anew when its end would miss the limit by more than this share of it ...
TOLERANCE = 0.005
# ... but not before this share of the limit and so many steps: the first ones set up the arithmetic and are slow.
FIRST_REPLAN_SHARE, FIRST_REPLAN_STEPS = 0.02, 3
# The pace of the run is taken over about this share of the limit, so that it follows a computer that becomes slower.
PACE_SHARE = 0.2


@dataclass
class Schedule:
    """Steps planned and how far along the learning is at each.

    Attributes:
        total_steps: optimiser steps of the whole run.
        steps_per_epoch: optimiser steps in one pass over the data.
        time_limit_seconds: seconds the whole run may take, everything included; None: as long as its steps take.
        most_steps: the run is never planned longer than this (the epochs the user gave); None: no such limit.
        marks: [step, progress] where the run was planned anew, in order; the last one with the same step counts.
        timed_seconds: seconds taken by the latest steps, fading with age.
        timed_steps: number of these steps, fading alike; their ratio is the pace.
        timed_until: [step, seconds] of the last look at the clock.
    """

    total_steps: int
    steps_per_epoch: int
    time_limit_seconds: float | None = None
    most_steps: int | None = None
    marks: list[list[float]] = field(default_factory=lambda: [[0, 0.0]])
    timed_seconds: float = 0.0
    timed_steps: float = 0.0
    timed_until: list[float] = field(default_factory=lambda: [0, 0.0])

    @property
    def epochs(self) -> int:
        """Passes over the data, a last one that is cut short included."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    @property
    def seconds_per_step(self) -> float | None:
        """The latest pace, everything between the steps included; None before the first ``replan``."""
        return self.timed_seconds / self.timed_steps if self.timed_steps > 0 else None

    def progress(self, step: int) -> float:
        """Returns how far the learning is before ``step`` (counted from 0), 0 to 1: straight lines between the marks."""
        number = max(n for n, mark in enumerate(self.marks) if n == 0 or mark[0] <= step)
        first, done = self.marks[number]
        last, aim = self.marks[number + 1] if number + 1 < len(self.marks) else (self.total_steps, 1.0)
        if last <= first:
            return min(1.0, aim if step >= last else done)
        return min(1.0, done + (aim - done) * (step - first) / (last - first))

    def learning_rate(self, step: int, peak: float) -> float:
        """Returns the size of a step: rises at first, then falls along a half cosine (Loshchilov & Hutter 2017).

        Args:
            step: optimiser steps done.
            peak: the largest value.
        """
        progress = self.progress(step)
        rise = min(1.0, (progress + 1e-4) / WARM_UP_SHARE)
        return peak * rise * max(LOWEST_SHARE, 0.5 * (1 + math.cos(math.pi * progress)))

    def replan(self, step: int, elapsed_seconds: float, reserve_seconds: float) -> bool:
        """Changes ``total_steps`` so that the rest of the run fits the time limit, more or fewer steps than before.

        Args:
            step: optimiser steps done.
            elapsed_seconds: since the start, over all sittings.
            reserve_seconds: what the work after the last step (last look at the validation scans, saving) will take.

        Returns:
            whether the plan changed.
        """
        limit = self.time_limit_seconds
        self._look_at_clock(step, elapsed_seconds, math.inf if limit is None else PACE_SHARE * limit)
        pace = self.seconds_per_step
        if limit is None or pace is None or pace <= 0:
            return False
        if step < FIRST_REPLAN_STEPS or elapsed_seconds < FIRST_REPLAN_SHARE * limit:
            return False
        end = elapsed_seconds + (self.total_steps - step) * pace + reserve_seconds
        if abs(end - limit) <= TOLERANCE * limit:
            return False
        total = step + max(0, int((limit - elapsed_seconds - reserve_seconds) / pace))
        if self.most_steps is not None:
            total = min(total, max(step, self.most_steps))
        return self._end_at(step, total, self.progress(step))

    def extend(self, step: int, extra_steps: int) -> None:
        """Adds steps to the run ("ten more epochs"), with the time they take; learning goes back to larger steps.

        Args:
            step: optimiser steps done.
            extra_steps: how many more are wanted.
        """
        if self.most_steps is not None:
            self.most_steps += extra_steps
        if self.time_limit_seconds is not None:
            pace = self.seconds_per_step
            self.time_limit_seconds = None if pace is None else self.time_limit_seconds + extra_steps * pace
        self._end_at(step, max(step, self.total_steps) + extra_steps, min(BACK_TO, self.progress(step)))

    def change(
        self, step: int, total_steps: int, time_limit_seconds: float | None, most_steps: int | None = None
    ) -> None:
        """Gives a run that is continued another end than the one it was planned with.

        Args:
            step: optimiser steps done.
            total_steps: of the whole run.
            time_limit_seconds: of the whole run, what it has taken so far included.
            most_steps: see the class.
        """
        self.time_limit_seconds, self.most_steps = time_limit_seconds, most_steps
        progress = self.progress(step)
        if total_steps > self.total_steps:
            progress = min(BACK_TO, progress)
        self._end_at(step, max(step, total_steps), progress)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for the resume file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Schedule:
        """Returns the schedule that ``to_dict`` wrote."""
        values = dict(table)
        values["marks"] = [list(mark) for mark in values["marks"]]
        values["timed_until"] = list(values["timed_until"])
        return cls(**values)

    def _end_at(self, step: int, total_steps: int, progress: float) -> bool:
        before = self.progress(step)
        changed = total_steps != self.total_steps or progress != before
        if changed:
            as_planned = [] if progress == before else [[step, before]]  # up to here it was as planned
            # A new list: copies of a schedule share the old one.
            self.marks = [*self.marks, *as_planned, [step, progress]]
            self.total_steps = total_steps
        return changed

    def _look_at_clock(self, step: int, elapsed_seconds: float, memory_seconds: float) -> None:
        steps, seconds = step - self.timed_until[0], elapsed_seconds - self.timed_until[1]
        if steps <= 0 or seconds <= 0:
            return
        fade = math.exp(-seconds / memory_seconds)
        self.timed_steps = fade * self.timed_steps + steps
        self.timed_seconds = fade * self.timed_seconds + seconds
        self.timed_until = [step, elapsed_seconds]
