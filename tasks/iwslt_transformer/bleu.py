"""Translations of a split, and their BLEU by sacrebleu."""

from dataclasses import dataclass

from tasks.iwslt_transformer.batches import Pairs, grouped, pack
from tasks.iwslt_transformer.beam import search
from tasks.iwslt_transformer.model import Transformer
from tasks.iwslt_transformer.text import TARGET, Dictionary, detokenize


@dataclass(frozen=True)
class Translation:
    """Hypotheses and references as running text, one a sentence."""

    hypotheses: list[str]
    references: list[str]
    score: float
    signature: str

    def files(self) -> dict[str, bytes]:
        """`sacrebleu references.en -i hypotheses.en` computes the score of ``bleu.txt``."""
        return {
            "hypotheses.en": "".join(f"{line}\n" for line in self.hypotheses).encode(),
            "references.en": "".join(f"{line}\n" for line in self.references).encode(),
            "bleu.txt": f"{self.score} {self.signature}\n".encode(),
        }


def translate(
    model: Transformer, pairs: Pairs, target: Dictionary, beam: int, max_tokens: int
) -> Translation:
    """Translate all of ``pairs`` by beam search; at most 1.2 pieces a source piece, and 10 more."""
    words = [""] * len(pairs)
    device = next(model.parameters()).device
    for indices in grouped(pairs, max(max_tokens // beam, int(pairs.lengths.max())), None):
        source = pack([pairs.source[i] for i in indices]).to(device)
        longest = int(1.2 * source.shape[1] + 10)
        for i, pieces in zip(indices, search(model, source, beam, longest), strict=True):
            words[i] = target.decode(pieces)
    return scored(detokenize(words, TARGET), list(pairs.references))


def scored(hypotheses: list[str], references: list[str]) -> Translation:
    """BLEU with sacrebleu's defaults, as its command line has them."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU()
    score = metric.corpus_score(hypotheses, [references]).score
    return Translation(hypotheses, references, score, str(metric.get_signature()))
