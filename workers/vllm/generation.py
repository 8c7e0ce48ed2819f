"""One request: its samples are requests of their own to vLLM, which share the prompt through the prefix cache.

Samples differ in seeds and lengths, which one request of vLLM with ``n`` cannot say; and each is aborted by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from orchestrator.engine import FinishReason, GenerateRequest, Prefilled
from orchestrator.errors import EngineFailed, TtcError
from orchestrator.workers.vllm.asking import num_logprobs, priority, sampling_params
from orchestrator.workers.vllm.core import Core
from orchestrator.workers.vllm.outbox import Outbox
from orchestrator.workers.vllm.sample import Sample, tops_of
from orchestrator.workers.vllm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

_LOG = logging.getLogger(__name__)


class Generation:
    """A request that is being served.

    Args:
        request: What is wanted.
        prompt: Its ids.
        core: Who samples.
        vocabulary: Of the model.
        context_length: Tokens of prompt and reply.
        model: For errors.

    Attributes:
        samples: One for each that is wanted.
        outbox: What its reader reads.
        cached_tokens: Of the prompt, as told by `Prefilled`.
    """

    def __init__(
        self,
        request: GenerateRequest,
        prompt: Sequence[int],
        *,
        core: Core,
        vocabulary: Vocabulary,
        context_length: int,
        model: str,
    ) -> None:
        room = context_length - len(prompt)
        self.outbox = Outbox(len(request.samples), max_unread_tokens=request.max_unread_tokens)
        self.samples = [
            Sample(
                index,
                spec,
                request,
                limit=min(spec.max_tokens, room),
                vocabulary=vocabulary,
                outbox=self.outbox,
            )
            for index, spec in enumerate(request.samples)
        ]
        self.cached_tokens = 0
        self._request = request
        self._prompt = list(prompt)
        self._core = core
        self._end_ids = sorted(vocabulary.end_ids)
        self._model = model
        self._num_logprobs = num_logprobs(request)
        self._params = [sampling_params(request, sample, end_ids=self._end_ids) for sample in self.samples]

    @property
    def num_live(self) -> int:
        """Samples that have not ended."""
        return sum(not sample.is_over for sample in self.samples)

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self._prompt)

    async def run(self) -> None:
        """Fills the outbox, and closes it with an error if there is one; raises none but `CancelledError`."""
        now_s = asyncio.get_running_loop().time()
        order = priority(self._request, now_s=now_s)
        error: Exception | None = None
        try:
            async with asyncio.timeout(self._request.deadline_s), asyncio.TaskGroup() as group:
                for sample in self.samples:
                    group.create_task(self._write(sample, order))
        except TimeoutError:
            self.end(FinishReason.CANCELLED, "deadline")
        except ExceptionGroup as failed:
            error = _first(failed)
        finally:
            self.outbox.close(self._as_failure(error))

    def end(self, reason: FinishReason, detail: str | None = None) -> None:
        """Ends what lives, at once; nothing more is taken from vLLM."""
        if not self.outbox.has_begun and not self.outbox.is_closed:
            self._begin(0)
        for sample in self.samples:
            sample.finish(reason, detail)
        self.outbox.close()

    async def _write(self, sample: Sample, order: int) -> None:
        attempt = 0
        while not sample.is_over:
            if attempt:
                await self.outbox.until_half_read(sample.index)
                params = sampling_params(self._request, sample, end_ids=self._end_ids)
            else:
                params = self._params[sample.index]
            outputs = self._core.generate(
                self._prompt + sample.ids,
                params,
                f"{self._request.request_id}/{sample.index}.{attempt}",
                priority=order,
                cache_salt=self._request.cache_salt,
            )
            async with aclosing(outputs):
                async for output in outputs:
                    self._take(sample, output)
                    if sample.is_over or sample.is_held:
                        break
            attempt += 1

    def _take(self, sample: Sample, output: RequestOutput) -> None:
        if not self.outbox.has_begun and sample.index == 0:
            self._begin(output.num_cached_tokens or 0)
        (part,) = output.outputs
        tops = tops_of(part.logprobs, count=self._num_logprobs) if self._num_logprobs and part.logprobs else None
        sample.take(part.token_ids, tops)
        if part.finish_reason is not None and not sample.is_over and not sample.is_held:
            self._ended_there(sample, part)

    def _ended_there(self, sample: Sample, part: Any) -> None:  # Any: vLLM's CompletionOutput
        """Ends a sample that vLLM has ended for a reason of its own."""
        if part.finish_reason == "length":
            sample.finish(FinishReason.LENGTH)
        elif part.finish_reason == "stop":
            sample.finish(FinishReason.END)
        else:
            raise EngineFailed(
                f"vLLM broke off a sample of model {self._model!r}: {part.finish_reason}", model=self._model
            )

    def _begin(self, cached_tokens: int) -> None:
        self.cached_tokens = min(cached_tokens, len(self._prompt))
        self.outbox.begin(Prefilled(len(self._prompt), self.cached_tokens))

    def _as_failure(self, error: Exception | None) -> TtcError | None:
        if error is None or isinstance(error, TtcError):
            return error
        _LOG.error("a request failed in this process", exc_info=error, extra={"model": self._model})
        return EngineFailed(f"model {self._model!r} raised {error!r}", model=self._model, is_retryable=False)


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
