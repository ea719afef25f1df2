"""Samples of text at each evaluation, so that a person sees what the losses mean."""

import logging

from base.errors import UserError
from model import hub
from model.corpus import Corpus
from model.generate import generate
from model.job import TrainJob
from model.journal import SampleText
from model.neox import NeoX

PROMPT_TOKENS = 16
"""Length of a prompt that is the beginning of a held-out document."""
SOURCES = 4
"""Sources that give such a prompt."""
TEMPERATURE, TOP_P = 0.8, 0.95

log = logging.getLogger("piledriver.samples")


class Sampler:
    """Continues the same prompts at each evaluation, with the same random numbers of its own."""

    def __init__(self, job: TrainJob, corpus: Corpus) -> None:
        """Take the prompts, or the beginnings of held-out documents; raises UserError if there are none."""
        self.tokenizer = hub.read_tokenizer(corpus.version.tokenizer_url)
        self.end = corpus.tokenizer.end_of_document_id
        self.seed = job.train.seed
        length = job.model.max_sequence_length
        self.tokens = min(job.train.samples.tokens, length // 2)
        if job.train.samples.prompts:
            texts = job.train.samples.prompts
            prompts = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        else:
            prompts = _beginnings(corpus)
        self.prompts = [prompt[-(length - self.tokens) :] for prompt in prompts if prompt]
        if not self.prompts:
            raise UserError(f"corpus {corpus.manifest_url} has no held-out documents to continue")

    def sample(self, model: NeoX) -> list[SampleText]:
        """Each prompt and its continuation; torch's random state stays as it is."""
        rows = generate(
            model,
            self.prompts,
            self.tokens,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            seeds=[self.seed + row for row in range(len(self.prompts))],
            end_id=self.end,
        )
        texts = [
            self.tokenizer.decode_batch(part, skip_special_tokens=False) for part in (self.prompts, rows)
        ]
        return [SampleText(prompt=prompt, text=text) for prompt, text in zip(*texts, strict=True)]


def sampler(job: TrainJob, corpus: Corpus) -> Sampler | None:
    """The sampler of a run, or None with a message where there can be none."""
    settings = job.train.samples
    if not settings.tokens or not job.train.evaluate_batches:
        return None
    if job.train.zero_stage == 3 or job.train.tensor_parallel > 1:
        log.warning("no samples of text: the weights are divided among the workers")
        return None
    try:
        return Sampler(job, corpus)
    except UserError as error:
        log.warning("no samples of text: %s", error)
        return None


def _beginnings(corpus: Corpus) -> list[list[int]]:
    """The first tokens of the first held-out document of a few sources."""
    beginnings = []
    for source in corpus.sources("heldout")[:SOURCES]:
        try:
            tokens = corpus.heldout(source, 1).input_ids[:PROMPT_TOKENS]
        except UserError as error:
            log.warning("%s; the source gives no sample of text", error)
            continue
        beginnings.append([int(token) for token in tokens])
    return beginnings
