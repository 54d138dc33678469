"""Against fairseq itself: initial weights, logits, loss, gradients, batches, order, schedule."""

from argparse import Namespace

import numpy as np
import pytest
import torch

from tasks.iwslt_transformer import batches
from tasks.iwslt_transformer.batches import Pairs, Sentences
from tasks.iwslt_transformer.loss import smoothed_loss
from tasks.iwslt_transformer.model import Shape, Transformer
from tasks.iwslt_transformer.text import EOS, PAD

pytest.importorskip("fairseq", reason="pip install '.[fairseq]'")

SYMBOLS = {"source": 203, "target": 187}


@pytest.fixture(scope="module")
def fairseq():
    from fairseq import criterions, data, models, optim, tasks  # noqa: F401
    from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
    from fairseq.data import Dictionary, LanguagePairDataset
    from fairseq.models.transformer import TransformerModel
    from fairseq.models.transformer.transformer_legacy import transformer_iwslt_de_en
    from fairseq.optim.adam import FairseqAdam
    from fairseq.optim.lr_scheduler import polynomial_decay_schedule
    from fairseq.tasks import FairseqTask

    def dictionary(symbols):
        made = Dictionary()
        for i in range(symbols - len(made)):
            made.add_symbol(f"w{i}")
        return made

    return Namespace(
        dictionary=dictionary, smoothed=label_smoothed_nll_loss, pairs=LanguagePairDataset,
        model=TransformerModel, architecture=transformer_iwslt_de_en, task=FairseqTask,
        schedule=polynomial_decay_schedule, optimizer=FairseqAdam,
    )  # fmt: skip


def corpus(count, seed=0, longest=23):
    """Random sentences of unequal lengths, each ending in EOS."""
    random = np.random.default_rng(seed)

    def side(symbols):
        lengths = random.integers(1, longest, count)
        sentences = [np.append(random.integers(4, symbols, n), EOS) for n in lengths]
        starts = np.concatenate([[0], np.cumsum(lengths + 1)])
        return Sentences(np.concatenate(sentences).astype(np.int32), starts)

    return Pairs(side(SYMBOLS["source"]), side(SYMBOLS["target"]))


def fairseq_model(fairseq, seed, dropout=0.3, **sizes):
    args = Namespace(share_decoder_input_output_embed=True, dropout=dropout, **sizes)
    fairseq.architecture(args)
    dictionaries = Namespace(
        source_dictionary=fairseq.dictionary(SYMBOLS["source"]),
        target_dictionary=fairseq.dictionary(SYMBOLS["target"]),
    )
    torch.manual_seed(seed)
    return fairseq.model.build_model(args, dictionaries)


def fairseq_dataset(fairseq, pairs):
    def rows(sentences):
        return [torch.from_numpy(sentences[i].astype(np.int64)) for i in range(len(sentences))]

    return fairseq.pairs(
        rows(pairs.source), pairs.source.lengths, fairseq.dictionary(SYMBOLS["source"]),
        rows(pairs.target), pairs.target.lengths, fairseq.dictionary(SYMBOLS["target"]),
    )  # fmt: skip


def test_initial_weights_are_the_same_bits_and_the_published_count(fairseq):
    theirs = fairseq_model(fairseq, seed=5)
    torch.manual_seed(5)
    ours = Transformer(SYMBOLS["source"], SYMBOLS["target"], Shape())
    found = dict(ours.named_parameters())
    expected = {name: p for name, p in theirs.named_parameters() if "output_projection" not in name}
    assert list(found) == list(expected)
    for name, parameter in expected.items():
        assert torch.equal(found[name], parameter), name
    count = sum(p.numel() for p in ours.parameters())
    assert count == 31_543_296 + 512 * sum(SYMBOLS.values())
    assert count == sum(p.numel() for p in theirs.parameters())


def test_logits_loss_and_gradients_in_float64(fairseq, monkeypatch):
    from fairseq import utils

    # their log-softmax is computed in float32 whatever the model is; here it is in float64
    monkeypatch.setattr(utils, "log_softmax", lambda x, dim, onnx_trace=False: x.log_softmax(dim))
    theirs = fairseq_model(
        fairseq, seed=1, dropout=0.0, encoder_layers=2, decoder_layers=2
    ).double()
    torch.manual_seed(1)
    ours = Transformer(SYMBOLS["source"], SYMBOLS["target"], Shape(layers=2, dropout=0.0)).double()
    pairs = corpus(9)
    sample = fairseq_dataset(fairseq, pairs).collater(
        [fairseq_dataset(fairseq, pairs)[i] for i in range(len(pairs))]
    )
    assert (sample["net_input"]["src_tokens"] == PAD).any() and (sample["target"] == PAD).any()
    output = theirs(**sample["net_input"])
    logp = theirs.get_normalized_probs(output, log_probs=True)
    target = sample["target"]
    loss, nll = fairseq.smoothed(
        logp.view(-1, logp.shape[-1]), target.view(-1, 1), 0.1, ignore_index=PAD
    )
    loss.backward()

    batch = batches.batch(pairs, np.arange(len(pairs)))
    states = ours(batch)
    real = target != PAD
    assert torch.equal(batch.target, target[real])
    torch.testing.assert_close(ours.logits(states), output[0][real], rtol=1e-5, atol=1e-6)
    mine, my_nll = smoothed_loss(states, ours.decoder.embed_tokens.weight, batch.target, 0.1)
    mine.backward()
    assert mine.item() == pytest.approx(loss.item(), rel=1e-6)
    assert my_nll.item() == pytest.approx(nll.item(), rel=1e-6)
    worst = {}
    found = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if not name.endswith("k_proj.bias"):  # whose true gradient is zero
            expected = found[name].grad
            worst[name] = float((parameter.grad - expected).abs().max() / expected.abs().max())
    assert max(worst.values()) < 1e-5, max(worst.items(), key=lambda item: item[1])


@pytest.mark.parametrize(
    ("seed", "count", "max_tokens"), [(3, 1500, 512), (1, 203, 200), (7, 64, 4096)]
)
def test_the_same_batches_in_the_same_order(fairseq, seed, count, max_tokens):
    pairs = corpus(count, seed)
    iterator = fairseq.task(Namespace()).get_batch_iterator(
        fairseq_dataset(fairseq, pairs), max_tokens=max_tokens, required_batch_size_multiple=8,
        seed=seed,
    )  # fmt: skip
    grouping = batches.grouped(pairs, max_tokens, seed)
    for epoch in (1, 2, 3):
        expected = list(iterator.next_epoch_itr(shuffle=True))
        order = batches.epoch_order(len(grouping), seed, epoch)
        assert [sorted(grouping[i].tolist()) for i in order] == [
            sorted(b["id"].tolist()) for b in expected
        ]
    made, theirs = batches.batch(pairs, grouping[order[0]]), expected[0]
    lengths = pairs.source.lengths[theirs["id"]]
    assert made.source.shape == tuple(theirs["net_input"]["src_tokens"].shape)
    assert (np.diff(lengths) <= 0).all()  # theirs go by falling length, as ours do


@pytest.mark.parametrize(("warmup", "total"), [(0, 50), (7, 50), (2000, 60000)])
def test_the_same_learning_rate_at_every_update(fairseq, warmup, total):
    from runners.schedules import polynomial_decay

    parameter = torch.nn.Parameter(torch.zeros(()))
    theirs = fairseq.optimizer(
        Namespace(lr=[3e-4], adam_betas="(0.9, 0.98)", adam_eps=1e-8, weight_decay=0.0,
                  fp16_adam_stats=False), [parameter],
    )  # fmt: skip
    scheduler = fairseq.schedule.PolynomialDecayLRSchedule(
        Namespace(lr=[3e-4], warmup_updates=warmup, force_anneal=None, end_learning_rate=0.0,
                  power=1.0, total_num_update=float(total)), theirs)  # fmt: skip
    ours = torch.optim.SGD([parameter], lr=3e-4)
    schedule = polynomial_decay(ours, warmup=warmup, total=total)
    for update in range(min(total + 3, 2500)):
        expected = scheduler.step_update(update)  # as their trainer does before an update
        assert ours.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-14, abs=0), update
        ours.step()
        schedule.step()
