"""Messages in, messages out, one job at a time. No torch of its own: it is handed the pipeline."""

from __future__ import annotations

import os
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from spooler import messages
from spooler.infotext import infotext
from spooler.messages import FromEngine
from spooler.record import Image, Timings

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from spooler.engine.pipeline import Pipeline

#: Between signs of life while a job runs; more would only fill the pipe.
SIGN_S = 0.05
#: zlib's fastest: a third of the time of the default for a file a tenth larger (docs/benchmarks.md).
PNG_LEVEL = 1


class Commands:
    """What the spooler says, read by a thread of its own so that a cancel is heard in mid-job."""

    def __init__(self, stdin: IO[bytes]):
        self.runs: SimpleQueue[messages.Run | None] = SimpleQueue()
        self.stopped = False
        self._cancelled: set[str] = set()
        threading.Thread(target=self._listen, args=(stdin,), name="spooler listener", daemon=True).start()

    def unwanted(self, job_id: str) -> bool:
        """Whether the job should end at its next step."""
        return self.stopped or job_id in self._cancelled

    def _listen(self, stdin: IO[bytes]) -> None:
        for line in stdin:
            match messages.to_engine.validate_json(line):
                case messages.Run() as run:
                    self._cancelled.discard(run.id)
                    self.runs.put(run)
                case messages.Cancel(id=job_id):
                    self._cancelled.add(job_id)
                case messages.Stop():
                    self.stopped = True
                    self.runs.put(None)
                    return
        # The spooler is dead. Whatever runs here now would be published by nobody, and its GPU is wanted by the next.
        os._exit(0)


class UnwantedError(Exception):
    """The job was cancelled, or the engine told to stop: raised at a step to get out of the denoising loop."""


@dataclass
class Clock:
    """Seconds spent in each part of a job."""

    denoise: float = 0.0
    decode: float = 0.0
    encode: float = 0.0


class Worker:
    """Runs jobs until told to stop."""

    def __init__(self, pipeline: Pipeline, commands: Commands, out: IO[bytes]):
        self._pipeline = pipeline
        self._commands = commands
        self._out = out
        self._last_sign = 0.0

    def serve(self) -> None:
        self._send(messages.Ready(facts=self._pipeline.facts))
        while (run := self._commands.runs.get()) is not None and not self._commands.stopped:
            self._send(self.run(run))

    def run(self, run: messages.Run) -> messages.Finished | messages.Failed:
        """Run one job to its end, whatever end that is. A fault that outlives the job ends the process instead."""
        clock = Clock()
        try:
            for index in range(run.job.count):
                self._one_image(run, index, clock)
        except UnwantedError:
            return messages.Failed(id=run.id, code="cancelled", reason="Cancelled while it ran.")
        except FileNotFoundError as error:
            return messages.Failed(id=run.id, code="lost", reason=f"The job's folder is gone: {error}.")
        except OSError as error:
            return messages.Failed(id=run.id, code="no_space", reason=f"A picture could not be written: {error}.")
        except (RuntimeError, ValueError, ArithmeticError, TypeError, KeyError, IndexError) as error:
            return self._failed(run, error)
        return messages.Finished(id=run.id, timings=Timings(**{k: round(v, 4) for k, v in vars(clock).items()}))

    def _one_image(self, run: messages.Run, index: int, clock: Clock) -> None:
        seed = (run.job.seed + index) % 2**32

        def on_step(step: int, steps: int) -> None:
            if self._commands.unwanted(run.id):
                raise UnwantedError
            self._sign(run.id, "denoise", index, step, steps)

        # 1. Denoise.
        on_step(0, run.job.steps or 1)
        begun = time.perf_counter()
        latents = self._pipeline.denoise(run.job, seed, on_step)
        denoised = time.perf_counter()

        # 2. Decode.
        self._sign(run.id, "decode", index, 1, 1, always=True)
        picture = self._pipeline.decode(latents)
        decoded = time.perf_counter()

        # 3. Write, under a name that nobody takes for a picture until it is whole.
        self._sign(run.id, "encode", index, 1, 1, always=True)
        name = f"{index}.png"
        self._save(picture, Path(run.folder) / name, run, seed)
        encoded = time.perf_counter()

        clock.denoise += denoised - begun
        clock.decode += decoded - denoised
        clock.encode += encoded - decoded
        image = Image(file=name, seed=seed, width=picture.width, height=picture.height)
        self._send(messages.ImageDone(id=run.id, image=image))

    def _save(self, picture: Picture, path: Path, run: messages.Run, seed: int) -> None:
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        # A1111's key and form, which other tools read; Pillow writes iTXt where Latin-1 does not do.
        text.add_text("parameters", infotext(run.job, seed, picture.size, self._pipeline.facts))
        draft = path.with_name(f".{path.name}")
        picture.save(draft, format="PNG", pnginfo=text, compress_level=PNG_LEVEL)
        draft.replace(path)

    def _failed(self, run: messages.Run, error: Exception) -> messages.Failed:
        failed = messages.Failed(
            id=run.id,
            code=self._pipeline.code_of(error),
            reason=f"The engine could not make the picture: {str(error) or type(error).__name__}"[:1000],
            details="".join(traceback.format_exception(error)),
        )
        if self._pipeline.is_fatal(error):
            # A sticky CUDA error: every later call in this process would fail too. The spooler starts a new one.
            self._send(failed)
            os._exit(3)
        return failed

    def _sign(self, job_id: str, phase: Any, image: int, step: int, steps: int, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self._last_sign >= SIGN_S or step == steps:
            self._last_sign = now
            self._send(messages.Progress(id=job_id, phase=phase, image=image, step=step, steps=steps))

    def _send(self, message: FromEngine) -> None:
        try:
            self._out.write(message.line())
        except BrokenPipeError:  # the spooler is dead
            os._exit(0)
