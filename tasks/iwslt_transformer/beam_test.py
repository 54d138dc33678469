"""Beam search against fairseq's, and BLEU against sacrebleu's command line."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from tasks.iwslt_transformer import batches, bleu
from tasks.iwslt_transformer.beam import search
from tasks.iwslt_transformer.fairseq_test import (
    SYMBOLS,
    corpus,
    fairseq,  # noqa: F401
    fairseq_dataset,
    fairseq_model,
)
from tasks.iwslt_transformer.model import Shape, Transformer
from tasks.iwslt_transformer.text import EOS, Dictionary


def model_of(shape=None):
    """A model that predicts anything but the piece it has just seen, and ends now and then."""
    torch.manual_seed(3)
    model = Transformer(SYMBOLS["source"], SYMBOLS["target"], shape or Shape(layers=2)).double()
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.fc1.weight.mul_(8)
            layer.fc2.weight.mul_(8)
        model.decoder.layers[-1].final_layer_norm.weight.mul_(4)
        model.decoder.embed_tokens.weight[EOS] *= 2
    return model.eval()


def test_a_model_that_is_no_longer_finite_says_nothing():
    model, pairs = model_of(Shape(64, 128, 4, 2)), corpus(6)
    with torch.no_grad():
        model.decoder.embed_tokens.weight.fill_(torch.nan)
    found = search(model, batches.batch(pairs, np.arange(6)).source, beam=2, longest=9)
    assert found == [[]] * 6


def test_greedy_search_is_the_plain_loop_without_a_cache():
    model, pairs = model_of(Shape(64, 128, 4, 2)), corpus(6)
    found = search(model, batches.batch(pairs, np.arange(6)).source, beam=1, longest=9)
    order = np.argsort(-pairs.source.lengths, kind="stable")
    for i, pieces in zip(order, found, strict=True):
        written = []
        while len(written) < 9:
            source = batches.pack([pairs.source[i]])
            shifted = batches.pack([np.array([EOS, *written])])
            target = torch.zeros(len(written) + 1, dtype=torch.int64)
            logits = model.logits(model(batches.Batch(source, shifted, target)))[-1].float()
            logits[1] = -torch.inf
            piece = int(logits.argmax())
            if piece == EOS:
                break
            written.append(piece)
        assert pieces == written


def test_the_same_translations_as_fairseq(fairseq):  # noqa: F811
    from fairseq.sequence_generator import SequenceGenerator

    ours, pairs = model_of(), corpus(11, seed=4)
    theirs = fairseq_model(fairseq, 0, encoder_layers=2, decoder_layers=2).double().eval()
    missing = theirs.load_state_dict(
        {n: p for n, p in ours.state_dict().items() if "positions" not in n}, strict=False
    )
    assert not missing.unexpected_keys
    assert all(
        "output_projection" in n or "positions" in n or "version" in n for n in missing.missing_keys
    )
    dataset = fairseq_dataset(fairseq, pairs)
    sample = dataset.collater([dataset[i] for i in range(len(pairs))])
    generator = SequenceGenerator(
        [theirs], fairseq.dictionary(SYMBOLS["target"]), beam_size=5, max_len_a=0, max_len_b=15
    )
    expected = [h[0]["tokens"].tolist()[:-1] for h in generator.generate([theirs], sample)]
    found = search(ours, batches.batch(pairs, np.arange(11)).source, beam=5, longest=15)
    assert len({len(h) for h in found}) > 1  # they end at different places
    assert found == expected


def test_bleu_is_sacrebleus_command_line(tmp_path):
    model, pairs = model_of(), corpus(12, seed=2)
    target = Dictionary([f"w{i}" for i in range(SYMBOLS["target"] - 4)])
    references = [target.decode(pairs.target[i]) for i in range(12)]
    made = bleu.translate(
        model, batches.Pairs(pairs.source, pairs.target, references), target, 2, 400
    )
    # a model that knows nothing scores near 0: give it every other reference
    hypotheses = [
        r if i % 2 else h for i, (h, r) in enumerate(zip(made.hypotheses, references, strict=True))
    ]
    made = bleu.scored(hypotheses, references)
    for name, content in made.files().items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "sacrebleu", "references.en", "-i", "hypotheses.en", "-b", "-w", "10"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert float(done.stdout) == pytest.approx(made.score, abs=1e-9) and made.score > 10
    assert made.signature in (tmp_path / "bleu.txt").read_text()
    assert "version:" in made.signature
