"""Many images judged at once, each with its rows or its problem."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from danceopd.evaluation.base import Case, Judge, JudgeError, Measured
from danceopd.evaluation.judges.judge import VisionJudge


def judge_images(
    judge: Judge, images: Iterable[tuple[Case, int, Path]], *, concurrency: int = 4
) -> Generator[list[Measured], None, None]:
    """Rows for each image, in the order of the images; none for cases that the judge does not apply to.

    An image that gets no scores has a problem in each of its rows. Close the iterator, or leave it by an
    error, and no further image is begun; what is on its way is waited for, so that its answer is kept, but a
    `VisionJudge` does not ask again for it.

    Args:
        judge: threads share it.
        images: case, number of the image, and its file.
        concurrency: images that are judged at once.

    Raises:
        ValueError: ``concurrency`` is below 1.
        OSError: the endpoint answers nobody, or the cache cannot be written.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1 but is {concurrency}.")
    waiting: deque[Future[list[Measured]]] = deque()
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="judge")
    patient = judge if isinstance(judge, VisionJudge) else None
    try:
        for case, number, image in images:
            if judge.applies(case):
                waiting.append(pool.submit(_rows, judge, case, number, image))
            if len(waiting) > 2 * concurrency:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BaseException:
        if patient is not None:
            patient.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if patient is not None:
            patient.resume()


def _rows(judge: Judge, case: Case, number: int, image: Path) -> list[Measured]:
    values, problem = {}, None
    try:
        values = dict(judge.judge(case, image))
    except JudgeError as error:
        problem = str(error)
    return [
        Measured(case.key, case.category, case.capability, number, info.name, values.get(info.name), problem)
        for info in judge.measures
    ]
