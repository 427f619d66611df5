"""Teachers that run in this process: through transformers, or through vLLM's engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import count

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from rivegs_mllm.data.images import PictureError
from rivegs_mllm.llm.client import Answer, HFChat, Messages, Sampling, TeacherError, VLLMChat, load_image, picture_paths
from rivegs_mllm.models.plain_text import escape_special_tokens
from rivegs_mllm.models.pretrained import resolve_model_path
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import UserError

MAX_CONTEXT_TOKENS = 32_768
"""Of a question and its answer together: models claim longer contexts, whose cache few machines have the memory for."""


class HFTeacher:
    """A transformers model. Questions that wait at the same time are answered as one batch, in a thread."""

    def __init__(self, chat: HFChat, sampling: Sampling):
        """Loads the model. Raises UserError where it cannot be had."""
        self.chat = chat
        source = {
            "pretrained_model_name_or_path": resolve_model_path(chat.model),
            "revision": chat.revision,
            "trust_remote_code": False,
        }
        files = {**source, "gguf_file": chat.gguf_file} if chat.gguf_file else source
        try:
            multimodal = not chat.gguf_file and type(AutoConfig.from_pretrained(**source)) in _MULTIMODAL
            self.processor = (
                AutoProcessor.from_pretrained(**source) if multimodal else AutoTokenizer.from_pretrained(**files)
            )
            kind = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
            place = "auto" if chat.device == "auto" and torch.cuda.is_available() else None
            weights = {} if chat.gguf_file else {"use_safetensors": True}
            self.model, info = kind.from_pretrained(
                **files, **weights, dtype=chat.dtype, device_map=place, output_loading_info=True
            )
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"teacher.model: {chat.model}: {one_line(error)}") from None
        if info["missing_keys"]:
            raise UserError(f"teacher.model: {chat.model} lacks weights, such as {sorted(info['missing_keys'])[0]}")
        if chat.device != "auto":
            self.model.to(chat.device)
        self.model.eval()
        self.tokenizer = self.processor.tokenizer if multimodal else self.processor
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.multimodal = multimodal
        self.settings = _generation(self.model, self.tokenizer, sampling)
        self.max_prompt_tokens = _context(self.model, self.tokenizer) - sampling.max_tokens
        self.seed = sampling.seed
        self.stop = sampling.stop
        self.waiting: list[tuple[Messages, asyncio.Future]] = []
        self.worker: asyncio.Task | None = None

    async def ask(self, messages: Messages) -> Answer:
        """The answer, generated in a batch with the questions of others."""
        if picture_paths(messages) and not self.multimodal:
            raise TeacherError(f"{self.chat.model} takes no pictures; set pictures to false, or take a model that does")
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((messages, future))
        if self.worker is None or self.worker.done():
            self.worker = asyncio.ensure_future(self._answer_waiting())
        return await future

    async def close(self) -> None:
        """Waits for the batch in work and releases the model."""
        if self.worker is not None:
            await asyncio.gather(self.worker, return_exceptions=True)
        del self.model

    async def _answer_waiting(self) -> None:
        while self.waiting:
            await asyncio.sleep(0)  # so that questions that are about to be asked join the batch
            some = self.waiting[: self.chat.batch_size]
            del self.waiting[: self.chat.batch_size]
            try:
                answers = await asyncio.to_thread(self._answer, [messages for messages, _ in some])
            except Exception as error:  # whatever it is: those who asked wait for their futures
                if isinstance(error, torch.cuda.OutOfMemoryError):
                    size = self.chat.batch_size
                    error = TeacherError(f"the teacher ran out of memory with teacher.batch_size={size}; lower it")
                for _, future in some:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(some, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def _answer(self, questions: Sequence[Messages]) -> list[Answer]:
        """One answer a question; those that are too long or whose picture cannot be opened are left out."""
        start = time.perf_counter()
        texts, pictures, errors = [], [], {}
        for index, messages in enumerate(questions):
            try:
                shown = [load_image(path, self.chat.max_side) for path in picture_paths(messages)]
                text = render_prompt(self.processor, messages, self.multimodal)
                # Memory grows with a question, and beyond its context a model's answers are worth nothing.
                tokens = len(self.tokenizer(text, add_special_tokens=False).input_ids)
                if tokens > self.max_prompt_tokens:
                    raise _TooLongError(
                        f"the question has {tokens} tokens, and the model can read {self.max_prompt_tokens} of them"
                    )
            except (PictureError, _TooLongError) as error:
                errors[index] = Answer(error=str(error))
            else:
                texts.append(text)
                pictures.append(shown)
        generated = iter(self._generate(texts, pictures) if texts else ())
        seconds = time.perf_counter() - start
        return [
            errors[index] if index in errors else self._read(*next(generated), seconds)
            for index in range(len(questions))
        ]

    @torch.inference_mode()
    def _generate(self, texts: list[str], pictures: list[list[Image.Image]]) -> list[tuple[int, list[int]]]:
        """For each prompt its number of tokens, and the tokens generated, end token included."""
        padded = {"return_tensors": "pt", "padding": True}
        plain = self.processor.chat_template is None
        if any(pictures):
            inputs = self.processor(text=texts, images=pictures, **padded)
        elif self.multimodal:
            inputs = self.processor(text=texts, **padded)
        else:  # a chat template has written the special tokens already
            inputs = self.processor(texts, add_special_tokens=plain, **padded)
        torch.manual_seed(self.seed)  # at each batch, so that an answer does not depend on the batches before
        inputs = inputs.to(self.model.device)
        if self.model.dtype != torch.float32 and "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        whole = self.model.generate(**inputs, generation_config=self.settings, tokenizer=self.tokenizer)
        lengths = inputs["attention_mask"].sum(1).tolist()
        return list(zip(lengths, whole[:, inputs["input_ids"].shape[1] :].tolist(), strict=True))

    def _read(self, prompt_tokens: int, tokens: list[int], seconds: float) -> Answer:
        ends = self.settings.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        end = next((index for index, token in enumerate(tokens) if token in ends), None)
        kept = tokens[:end]
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        stops = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        return Answer(
            text[: min(stops, default=None)].strip(),
            finish_reason="stop" if stops or end is not None else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(kept),
            latency=seconds,
            model=self.chat.identity["model"],
        )


class _TooLongError(Exception):
    """A question that the model's context does not hold."""


def _context(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokens that the model can read and write, as far as its config states them, at most MAX_CONTEXT_TOKENS."""
    stated = model.config.get_text_config().to_dict().get("max_position_embeddings") or MAX_CONTEXT_TOKENS
    return min(stated, tokenizer.model_max_length, MAX_CONTEXT_TOKENS)


class VLLMTeacher:
    """vLLM's asynchronous engine: prefix caching, continuous batching, tensor and data parallel, Ray if asked.

    Its offline class refuses data parallelism in one process, and answers only when a whole batch is done.
    """

    def __init__(self, chat: VLLMChat, sampling: Sampling):
        """Keeps the settings; the engine is started with the first question. Raises UserError without vLLM."""
        try:
            from vllm import AsyncEngineArgs, SamplingParams
            from vllm.sampling_params import RequestOutputKind
        except ImportError as error:
            raise UserError(f"teacher.type vllm: vLLM cannot be imported ({error}); pip install vllm") from None
        if chat.executor not in ("mp", "ray"):
            raise UserError(f"teacher.executor: {chat.executor!r} is neither 'mp' nor 'ray'")
        self.chat = chat
        self.arguments = AsyncEngineArgs(
            model=chat.model,
            revision=chat.revision,
            dtype=chat.dtype,
            quantization=chat.quantization,
            tensor_parallel_size=chat.tensor_parallel_size,
            data_parallel_size=chat.data_parallel_size,
            data_parallel_backend=chat.executor,
            distributed_executor_backend=chat.executor,
            gpu_memory_utilization=chat.gpu_memory_utilization,
            max_model_len=chat.max_model_len,
            limit_mm_per_prompt={"image": chat.pictures},
            enable_prefix_caching=True,
            trust_remote_code=False,
        )
        self.settings = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            stop=sampling.stop,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            self.processor = AutoProcessor.from_pretrained(chat.model, revision=chat.revision, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(f"teacher.model: {chat.model}: {one_line(error)}") from None
        self.multimodal = isinstance(self.processor, ProcessorMixin)
        templated = self.processor.chat_template is not None and not self.multimodal
        self.reading = {"add_special_tokens": False} if templated else None  # the template has written them already
        self.engine = None
        self.numbers = count()

    async def ask(self, messages: Messages) -> Answer:
        """The answer. A question that the engine refuses, such as one too long, gives an error."""
        from vllm.v1.engine.async_llm import AsyncLLM  # not among the dependencies

        if self.engine is None:
            self.engine = AsyncLLM.from_engine_args(self.arguments)
        start = time.perf_counter()
        paths = picture_paths(messages)
        try:
            pictures = [await asyncio.to_thread(load_image, path, self.chat.max_side) for path in paths]
            prompt = {"prompt": render_prompt(self.processor, messages, self.multimodal)}
            if pictures:
                prompt["multi_modal_data"] = {"image": pictures}
            number = str(next(self.numbers))
            async for output in self.engine.generate(prompt, self.settings, number, tokenization_kwargs=self.reading):
                final = output
        except (PictureError, ValueError) as error:
            return Answer(error=str(error), latency=time.perf_counter() - start)
        completion = final.outputs[0]
        return Answer(
            completion.text.strip(),
            finish_reason=completion.finish_reason or "",
            prompt_tokens=len(final.prompt_token_ids or ()),
            completion_tokens=len(completion.token_ids),
            latency=time.perf_counter() - start,
            model=self.chat.identity["model"],
        )

    async def close(self) -> None:
        """Stops the engine."""
        if self.engine is not None:
            self.engine.shutdown()


_MULTIMODAL = tuple(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.keys())


def _generation(model, tokenizer, sampling: Sampling) -> GenerationConfig:
    """The settings alone: what a model's own generation config would add, such as a repetition penalty, is left out."""
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    return GenerationConfig(
        **(drawn if sampling.temperature > 0 else {"do_sample": False}),
        max_new_tokens=sampling.max_tokens,
        eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        stop_strings=sampling.stop or None,
    )


def render_prompt(processor, messages: Messages, multimodal: bool) -> str:
    """The prompt by the model's own chat template; without one (BLIP-2) the texts alone, one a line."""
    tokenizer = processor.tokenizer if multimodal else processor
    if processor.chat_template is None:
        return escape_special_tokens("\n".join(_text(turn["content"]) for turn in messages).strip(), tokenizer)
    given = [{**turn, "content": _content(turn["content"], multimodal, tokenizer)} for turn in messages]
    return processor.apply_chat_template(given, add_generation_prompt=True, tokenize=False)


def _content(content: str | list[dict], multimodal: bool, tokenizer) -> str | list[dict]:
    """A turn's content as a template wants it: parts for a multimodal model, a text for others."""
    if not multimodal:
        return escape_special_tokens(_text(content), tokenizer)
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [
        {"type": "image"}
        if part["type"] == "image"
        else {**part, "text": escape_special_tokens(part["text"], tokenizer)}
        for part in parts
    ]


def _text(content: str | list[dict]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")
