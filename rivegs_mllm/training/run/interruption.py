"""A training that is told to stop, as by Slurm or the owner of a spot instance: it saves a checkpoint and ends."""

from __future__ import annotations

import signal
from types import FrameType

from accelerate import Accelerator
from transformers import TrainerCallback

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What `scancel` and spot instances send, and what Slurm's ``--signal=USR1@120`` sends before a run's time is over."""

EXIT_CODES = 128
"""What a shell adds to a signal's number in the exit code of a program that it ended."""


class StopOnSignal(TrainerCallback):
    """Ends training after the step in which any process was sent one of `SIGNALS`, with a checkpoint.

    ``received`` is the signal's number, 0 where there was none.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.received = 0
        self.before: dict[int, object] = {}

    def on_train_begin(self, args, state, control, **_):
        self.before = {own: signal.signal(own, self._note) for own in SIGNALS}

    def on_step_end(self, args, state, control, **_):
        # All processes must save together, and a signal reaches them between different steps, or only one of them.
        if self.received:
            self.accelerator.set_trigger()
        if self.accelerator.check_trigger():
            self.received = self.received or signal.SIGTERM
            if state.global_step < state.max_steps:
                control.should_training_stop = control.should_save = True
                control.should_evaluate = False

    def on_train_end(self, args, state, control, **_):
        for own, handler in self.before.items():
            signal.signal(own, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
