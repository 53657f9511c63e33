"""Generation with the key-value cache, and drawing tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.inference import generator
from trainer.inference.generator import generate, generate_batch, stream
from trainer.inference.sampling import Sampling, derive_seed, draw, seed_array, uniforms
from trainer.model.config import ModelConfig
from trainer.model.transformer import Transformer

VOCABULARY = 40
GREEDY, PLAIN, COOL = Sampling(temperature=0.0), Sampling(), Sampling(temperature=0.7, top_p=0.8)


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    return Transformer(config.resolved(VOCABULARY), seed=3).eval()


def without_cache(model, prompt, seed, stop_ids, max_new_tokens, sampling):
    ids, log_probs = list(prompt), []
    with torch.no_grad():
        for step in range(max_new_tokens):
            logits = model.logits(model(torch.tensor([ids])))[:, -1]
            drawn, log_prob = draw(logits, torch.from_numpy(uniforms(seed_array([seed]), step)), sampling)
            ids.append(int(drawn))
            log_probs.append(float(log_prob))
            if ids[-1] in stop_ids:
                break
    return ids[len(prompt) :], log_probs


prompt_lists = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9), min_size=1, max_size=7)


@pytest.mark.parametrize("sampling", [GREEDY, PLAIN, COOL])
@settings(max_examples=15)
@given(prompts=prompt_lists)
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone_without_a_cache(model, sampling, prompts):
    stop_ids = {3, 4, 5}
    seeds = [derive_seed(7, row) for row in range(len(prompts))]
    completions = generate(model, prompts, seeds, stop_ids=stop_ids, max_new_tokens=12, sampling=sampling, batch_rows=5)
    for prompt, seed, completion in zip(prompts, seeds, completions, strict=True):
        ids, log_probs = without_cache(model, prompt, seed, stop_ids, 12, sampling)
        assert list(completion.ids) == ids
        assert list(completion.log_probs) == pytest.approx(log_probs, abs=1e-4)
        assert completion.finished == (ids[-1] in stop_ids)


def test_no_more_rows_are_cached_at_once_than_there_is_room_for(model, monkeypatch):
    prompts, seeds = [[1, 2, 3], [4], [5, 6]] * 4, range(12)
    rows = []

    def counted(model, prompts, *others):
        rows.append(len(prompts))
        return generate_batch(model, prompts, *others)

    monkeypatch.setattr(generator, "generate_batch", counted)
    at_once = generate(model, prompts, seeds, stop_ids=(), max_new_tokens=8, sampling=PLAIN)
    # 11 columns of two layers, keys and values of two heads, 8 wide, in fp32
    monkeypatch.setattr(generator, "CACHE_BYTES", 5 * 11 * 2 * 2 * 2 * 8 * 4 + 1)
    few = generate(model, prompts, seeds, stop_ids=(), max_new_tokens=8, sampling=PLAIN)
    assert rows == [12, 5, 5, 2] and [one.ids for one in few] == [one.ids for one in at_once]


def test_samples_of_one_prompt_differ_by_their_seed_only(model):
    completions = generate(model, [[1, 2]] * 6, [1, 2, 3, 1, 2, 3], stop_ids=(), max_new_tokens=8, sampling=PLAIN)
    assert completions[:3] == completions[3:] and len({completion.ids for completion in completions}) == 3


def test_the_same_call_gives_the_same_bits(model):
    prompts, seeds = [[1, 2, 3], [4], [5, 6]] * 5, range(15)
    first, second = (generate(model, prompts, seeds, stop_ids={0, 1}, max_new_tokens=20, sampling=PLAIN) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("sampling", [GREEDY, COOL])
def test_streaming_gives_the_same_answer_without_the_stop_token(model, sampling):
    [completion] = generate(model, [[1, 2, 3]], [5], stop_ids={7, 8, 9}, max_new_tokens=20, sampling=sampling)
    streamed = stream(model, [1, 2, 3], 5, stop_ids={7, 8, 9}, max_new_tokens=20, sampling=sampling)
    assert tuple(streamed) == completion.text_ids()


def test_generation_leaves_the_model_in_the_mode_it_found(model):
    model.train()
    generate(model, [[1]], [0], stop_ids=(), max_new_tokens=1, sampling=GREEDY)
    assert model.training
    model.eval()


def test_a_prompt_that_does_not_fit_is_refused(model):
    with pytest.raises(ValueError, match="do not fit the context of 64"):
        generate(model, [[1] * 60], [0], stop_ids=(), max_new_tokens=5, sampling=GREEDY)
    with pytest.raises(ValueError, match="0 tokens"):
        generate(model, [[]], [0], stop_ids=(), max_new_tokens=5, sampling=GREEDY)


def test_drawn_frequencies_follow_the_tempered_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20_000, 4)
    numbers = torch.from_numpy(uniforms(seed_array(range(20_000)), 0))
    ids, log_probs = draw(logits, numbers, Sampling(temperature=2.0))
    expected = (logits[0] / 2).softmax(-1)
    assert torch.allclose(torch.bincount(ids, minlength=4) / 20_000, expected, atol=0.015)
    assert torch.allclose(log_probs, expected.log()[ids])


@given(st.integers(0, 2**64 - 1), st.floats(0.05, 1.0))
def test_a_nucleus_is_the_smallest_set_that_holds_its_share(seed, top_p):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 12))).float() * 2
    numbers = torch.from_numpy(uniforms(seed_array(range(400)), 0))
    ids, log_probs = draw(logits.expand(400, 12), numbers, Sampling(top_p=top_p))
    probabilities, order = logits[0].softmax(-1).sort(descending=True)
    needed = int((probabilities.cumsum(0) < top_p - 1e-6).sum()) + 1
    assert set(ids.tolist()) <= set(order[:needed].tolist())
    share = probabilities[:needed].sum()
    assert log_probs[0].exp().item() == pytest.approx((logits[0].softmax(-1)[ids[0]] / share).item(), rel=1e-3)


def test_random_numbers_fill_the_unit_interval_evenly_and_depend_on_seed_and_position():
    numbers = np.concatenate([uniforms(seed_array(range(1000)), position) for position in range(20)])
    assert numbers.min() >= 0 and numbers.max() < 1 and len(np.unique(numbers)) == 20_000
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert abs(counts - 1000).max() < 150
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("values", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_refuses_values_out_of_range(values):
    with pytest.raises(ValueError, match="set"):
        Sampling(**values)
