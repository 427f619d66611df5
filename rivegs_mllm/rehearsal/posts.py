"""The first posts of a dataset as processor and answer format take them: how long, what is cut, what is lost."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import ProcessorMixin

from eval.matching import best_box_iou
from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.answer.serialization import parse
from rivegs_mllm.config.schema import Recipe
from rivegs_mllm.data.images import picture_size
from rivegs_mllm.rehearsal.check import FAULT, OK, WARNING, Check
from rivegs_mllm.store.attach import read_posts
from rivegs_mllm.training.dataset.rows import AnswerDataset, dataset_of, greatest_length, picture_tokens
from rivegs_mllm.training.pictures import measure_pictures
from rivegs_mllm.training.undecided import decided_posts
from rivegs_mllm.types import Sample, UserError

POSTS = 1000
ENCODED = 8  # of them, a thousand pictures being decoded takes minutes
SAME = 0.5
"""IoU of a box and what can be read of it in the answer, below which it is lost: that of a correct one in scores."""


@dataclass(frozen=True)
class Post:
    """``tokens`` of prompt, picture and answer, of which ``answer`` and ``picture``; ``boxes`` that the answer should
    have, of which ``lost`` cannot be read back; ``shrunk``: whether its picture is made smaller."""

    sample: Sample
    tokens: int
    answer: int
    picture: int
    boxes: int
    lost: int
    shrunk: bool


@dataclass(frozen=True)
class Posts:
    """The ``posts`` that can be written as answers, what is wrong with ``others``, and how many are in the split."""

    posts: Sequence[Post]
    others: Sequence[str]
    total: int


def measure_posts(recipe: Recipe, processor: ProcessorMixin, answer_format: AnswerFormat) -> Posts:
    """The first posts to train on. Raises UserError for a split that cannot be read."""
    folder = recipe.data.folder
    samples = read_posts(folder, recipe.data.train, recipe.answer.types, recipe.distilled)
    samples = decided_posts(samples, recipe.answer.segments, recipe.data.train)
    looked = measure_pictures(samples[:POSTS], folder, picture_size)
    faults = [fault for _, fault in looked if fault]
    dataset = dataset_of(recipe, [sample for sample, fault in looked if not fault], processor, answer_format)
    posts = []
    for sample in dataset.samples:
        try:
            posts.append(_measure(dataset, sample))
        except UserError as error:
            faults.append(str(error))
    return Posts(posts, faults, len(samples))


def _measure(dataset: AnswerDataset, sample: Sample) -> Post:
    drawn, answer_format = dataset.augment(sample), dataset.answer_format
    answer = dataset.encoder.answer(dataset.pieces(drawn))["answer"].tolist()
    boxes, lost = _boxes_lost(dataset, drawn, answer)
    shrunk = bool(sample.image) and sample.size[0] * sample.size[1] > answer_format.max_pixels
    picture = picture_tokens(sample, answer_format) + 1 if sample.image else 0
    return Post(sample, greatest_length(dataset, sample), len(answer), picture, boxes, lost, shrunk)


def _boxes_lost(dataset: AnswerDataset, sample: Sample, answer: Sequence[int]) -> tuple[int, int]:
    """How many boxes the answer should have, and how many are not read back from its tokens."""
    answer_format = dataset.answer_format
    if "boxes" not in answer_format.segments or not sample.image:
        return 0, 0
    text = dataset.encoder.tokenizer.decode(answer[:-1], clean_up_tokenization_spaces=False)
    read = parse(sample.id, text, sample.tokens, answer_format, sample.size)
    found = [box for entity in read.entities for box in entity.boxes]
    boxes = [box for entity in sample.entities for box in entity.boxes]
    return len(boxes), sum(best_box_iou(box, found) < SAME for box in boxes)


def check_posts(measured: Posts, recipe: Recipe) -> Iterator[Check]:
    """Lengths, answers, pictures and boxes of the posts."""
    posts, of = measured.posts, f"{len(measured.posts) + len(measured.others):,} of {measured.total:,} posts"
    if measured.others:
        first = measured.others[0].split("\n")[0]
        found = f"{len(measured.others):,} of {of} would be refused, such as {first}"
        yield Check(FAULT, "posts", found, "`rivegs audit` lists them; --data.skip_bad=true leaves them out")
    if not posts:
        return
    yield _check_lengths(posts, recipe, of)
    yield _check_answers(posts, recipe)
    yield _check_pictures(posts, recipe)
    yield _check_boxes(posts)


def _check_lengths(posts: Sequence[Post], recipe: Recipe, of: str) -> Check:
    tokens = [post.tokens for post in posts]
    longest = max(posts, key=lambda post: post.tokens)
    median = statistics.median(tokens)
    figures = {"tokens_median": median, "tokens_max": longest.tokens, "tokens_mean": statistics.fmean(tokens)}
    long = sum(length > recipe.max_length for length in tokens)
    found = f"{median:,.0f} a post (median), at most {longest.tokens:,} ({longest.sample.id}), in the first {of}"
    if long:
        found = f"{long:,} posts have more than max_length = {recipe.max_length:,}, and training refuses them; {found}"
        return Check(FAULT, "tokens", found, f"--max_length={_rounded(longest.tokens)}", figures)
    return Check(OK, "tokens", found, figures=figures)


def _check_answers(posts: Sequence[Post], recipe: Recipe) -> Check:
    limit, longest = recipe.predict.max_new_tokens, max(post.answer for post in posts)
    cut = sum(post.answer > limit for post in posts)
    figures = {"answers_max": longest, "answers_cut": cut}
    if cut:
        found = f"{cut:,} have more tokens than predict.max_new_tokens = {limit:,}, and would be cut when predicted"
        return Check(WARNING, "answers", found, f"--predict.max_new_tokens={_rounded(longest)}", figures)
    return Check(OK, "answers", f"at most {longest:,} tokens, of {limit:,} that are generated", figures=figures)


def _rounded(tokens: int) -> int:
    return -(-tokens // 64) * 64


def _check_pictures(posts: Sequence[Post], recipe: Recipe) -> Check:
    pictures = [post for post in posts if post.picture]
    shrunk = sum(post.shrunk for post in pictures)
    if not pictures:
        return Check(WARNING, "pictures", "no post has one", "without them nothing is grounded", {"pictures_shrunk": 0})
    median = statistics.median(post.picture for post in pictures)
    found = (
        f"{len(pictures):,}, {median:,.0f} tokens each (median); {shrunk:,} are over model.max_pixels and made smaller"
    )
    figures = {"pictures_shrunk": shrunk, "picture_tokens_median": median}
    if shrunk > len(pictures) / 2:
        advice = "a higher model.max_pixels keeps small boxes, and takes more tokens"
        return Check(WARNING, "pictures", found, advice, figures)
    return Check(OK, "pictures", found, figures=figures)


def _check_boxes(posts: Sequence[Post]) -> Check:
    boxes, lost = sum(post.boxes for post in posts), sum(post.lost for post in posts)
    figures = {"boxes": boxes, "boxes_lost": lost}
    if not lost:
        return Check(OK, "boxes", f"all {boxes:,} are read back from the answers' tokens", figures=figures)
    names = ", ".join([post.sample.id for post in posts if post.lost][:3])
    found = (
        f"{lost:,} of {boxes:,} are not read back with an IoU of {SAME} from the answers' tokens, such as in {names}"
    )
    advice = "they are thinner than a step of the grid: raise model.max_pixels or answer.bins"
    return Check(FAULT if lost > boxes / 100 else WARNING, "boxes", found, advice, figures)


def check_encoding(measured: Posts, recipe: Recipe, processor: ProcessorMixin, form: AnswerFormat) -> Iterator[Check]:
    """Whether a post has as many tokens as were counted by its picture's size, some being really encoded."""
    dataset = dataset_of(recipe, [post.sample for post in measured.posts], processor, form)
    fitting = [place for place, post in enumerate(measured.posts) if post.tokens <= recipe.max_length]
    fitting.sort(key=lambda place: measured.posts[place].picture)
    some = fitting[:: max(1, len(fitting) // ENCODED)][:ENCODED]
    for place in some:
        row, post = dataset[place], measured.posts[place]
        length = row["input_ids"].shape[1] + len(row["answer"])
        shorter = "knowledge" in form.segments and len(post.sample.knowledge) > 1  # than with its longest text
        if length > post.tokens or (length < post.tokens and not shorter):
            found = (
                f"post {post.sample.id} has {length:,} tokens, and {post.tokens:,} were counted by its picture's size"
            )
            yield Check(FAULT, "processor", found, "the processor resizes pictures by another rule than its family's")
            return
    if some:
        yield Check(OK, "processor", f"{len(some)} posts were encoded, and have the tokens that were counted")
