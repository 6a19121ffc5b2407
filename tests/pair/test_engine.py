"""The engine on the real small model: what it makes, keeps, reports and lets go of."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.pair.engine import Engine, Gate, Job, Limits, QueueFullError, Token
from deploy.pair.export import TOLERANCE, graph_logits, reference_error, transformers_logits
from deploy.pair.graph import ModelFilesError
from deploy.pair.sampling import Floats, Sampling
from deploy.pair.text import Stopping

GREEDY = Sampling(temperature=0)
QUESTION = "<|begin|><|user|>What is 47 + 38?<|end|><|assistant|>"


def job(engine: Engine, text: str = QUESTION, tokens: int = 24) -> Job:
    """A greedy job that runs on past the end of its answer."""
    stopping = Stopping(max_tokens=tokens, ignore_eos=True)
    return Job(tuple(engine.codec.encode(text)), stopping, GREEDY)


def ids(tokens: Sequence[Token]) -> list[int]:
    return [token.id for token in tokens]


def text(tokens: Sequence[Token]) -> str:
    return "".join(token.text for token in tokens)


def test_greedy_decoding_repeats_itself(engine: Engine, small: Path) -> None:
    first = engine.generate(job(engine))
    assert (
        ids(first) == ids(engine.generate(job(engine))) == ids(Engine(small).generate(job(engine)))
    )
    assert first[-1].finish == "length"
    assert text(first) == engine.codec.decode(ids(first), skip_special=True)


@pytest.mark.parametrize("kept", [1, 2, 9, 23])
def test_a_kept_prefix_changes_no_token(engine: Engine, small: Path, kept: int) -> None:
    begun = job(engine)
    answer = ids(engine.generate(begun))
    resumed = replace(begun, prompt=(*begun.prompt, *answer[:kept]))
    before = engine.counters.prefix_hits
    again = ids(engine.generate(resumed))
    assert engine.counters.prefix_hits - before == len(resumed.prompt) - 1
    assert again[: 24 - kept] == answer[kept:]
    assert again == ids(Engine(small).generate(resumed))


def test_a_rewound_prefix_changes_no_token(engine: Engine, small: Path) -> None:
    engine.generate(job(engine))
    other = job(engine, QUESTION.replace("38", "39"))
    made = ids(engine.generate(other))
    assert 0 < engine.counters.prefix_hits < len(other.prompt)
    assert made == ids(Engine(small).generate(other))


def test_a_prompt_fed_in_pieces_gives_the_same_logits(engine: Engine, small: Path) -> None:
    long = job(engine, QUESTION * 40, tokens=2)
    seen: list[Floats] = []

    def look(_: Sequence[int], logits: Floats, __: Floats | None) -> None:
        seen.append(logits)

    engine.generate(replace(long, gate=Gate(look)))
    assert len(long.prompt) > 2 * 128
    np.testing.assert_allclose(seen[0], graph_logits(small, long.prompt)[-1], atol=TOLERANCE)


def test_every_running_generation_gets_one_token_a_step(engine: Engine) -> None:
    long, short = engine.submit([job(engine, tokens=9), job(engine, tokens=3)])
    for _ in range(3):
        assert {each for each, _ in engine.step()} == {long, short}
    assert short.ended
    assert [each for each, _ in engine.step()] == [long]


def test_what_does_not_fit_waits_or_is_refused(small: Path) -> None:
    engine = Engine(small, Limits(running=1, waiting=1))
    with pytest.raises(QueueFullError):
        engine.submit([job(engine)] * 3)
    running, waiting = engine.submit([job(engine)] * 2)
    engine.step()
    assert (engine.running, engine.waiting) == (1, 1)
    with pytest.raises(QueueFullError):
        engine.submit([job(engine)])
    engine.cancel(running)
    assert [each for each, _ in engine.step()] == [waiting]


def test_a_cancelled_generation_is_gone_at_once(engine: Engine) -> None:
    running, waiting = engine.submit([job(engine)] * 2)
    engine.step()
    engine.cancel(running)
    engine.cancel(running)
    engine.cancel(waiting)
    assert (engine.running, engine.waiting) == (0, 0)
    assert engine.step() == []


def test_a_stop_string_may_span_tokens(engine: Engine) -> None:
    letters = tuple(engine.codec.encode(letter)[0] for letter in "abcdefgh")
    spelling = replace(job(engine), sampling=Sampling(seed=1, allowed_ids=letters))
    whole = text(engine.generate(spelling))
    stop = whole[7:10]
    stopping = replace(spelling.stopping, strings=("never here", stop))
    stopped = engine.generate(replace(spelling, stopping=stopping))
    assert text(stopped) == whole[: whole.index(stop)]
    assert (stopped[-1].finish, stopped[-1].stop_reason) == ("stop", stop)
    shown = engine.generate(replace(spelling, stopping=replace(stopping, include_string=True)))
    assert text(shown) == whole[: whole.index(stop) + len(stop)]


def test_a_stop_id_ends_the_answer_and_says_so(engine: Engine) -> None:
    asked = job(engine)
    answer = ids(engine.generate(asked))
    stop = answer[4]
    at = answer.index(stop)
    stopping = replace(asked.stopping, token_ids=frozenset({stop}))
    stopped = engine.generate(replace(asked, stopping=stopping))
    assert ids(stopped) == answer[: at + 1]
    assert (stopped[-1].finish, stopped[-1].stop_reason, stopped[-1].text) == ("stop", stop, "")


def test_end_of_sequence_waits_for_min_tokens(engine: Engine) -> None:
    (eos,) = engine.graph.shape.eos
    eager = Sampling(temperature=0, logit_bias={eos: 100.0})
    asked = replace(job(engine), sampling=eager, stopping=Stopping(max_tokens=9, min_tokens=3))
    made = engine.generate(asked)
    assert ids(made).index(eos) == 3
    assert (made[-1].finish, made[-1].stop_reason) == ("stop", None)


def test_the_answer_ends_with_the_context(engine: Engine) -> None:
    context = engine.graph.shape.context
    asked = Job((40,) * (context - 2), Stopping(max_tokens=99, ignore_eos=True), GREEDY)
    made = engine.generate(asked)
    assert (len(made), made[-1].finish) == (2, "length")


def test_one_seed_one_answer(engine: Engine) -> None:
    def drawn(seed: int) -> tuple[int, ...]:
        sampling = Sampling(temperature=2.0, seed=seed)
        return tuple(ids(engine.generate(replace(job(engine), sampling=sampling))))

    assert drawn(5) == drawn(5)
    assert len({drawn(seed) for seed in range(6)}) > 1


def test_reported_scores_are_of_the_raw_distribution(engine: Engine) -> None:
    size = engine.graph.shape.vocabulary
    asked = replace(job(engine, tokens=1), logprobs=size)
    (plain,) = engine.generate(asked)
    warm = Sampling(temperature=1.7, logit_bias={plain.id: -50.0}, seed=1)
    (warmed,) = engine.generate(replace(asked, sampling=warm))
    assert len(plain.scores) == size
    assert sum(np.exp([logprob for _, logprob in plain.scores])) == pytest.approx(1, abs=1e-4)
    assert [logprob for _, logprob in plain.scores] == sorted(
        (logprob for _, logprob in plain.scores), reverse=True
    )
    assert warmed.scores[0][0] == warmed.id != plain.id == plain.scores[0][0]
    assert dict(warmed.scores) == pytest.approx(dict(plain.scores), abs=1e-4)


def test_named_ids_are_reported_in_their_order(engine: Engine) -> None:
    asked = replace(job(engine, tokens=1), logprobs=0, logprob_ids=(300, 20, 21))
    (token,) = engine.generate(asked)
    assert [each for each, _ in token.scores] == [token.id, 300, 20, 21]


def test_prompt_scores_are_those_of_generation(engine: Engine) -> None:
    asked = replace(job(engine, tokens=6), logprobs=1)
    answer = engine.generate(asked)
    prompt = (*asked.prompt, *ids(answer))
    (scored,) = engine.submit([replace(asked, prompt=prompt, prompt_logprobs=1)])
    while not scored.ended:
        engine.step()
    made = scored.prompt_scores[len(asked.prompt) :]
    assert scored.prompt_scores[0] is None
    for token, ranked in zip(answer, made, strict=True):
        assert ranked is not None
        assert ranked.rank == 1
        assert ranked.scores[0] == pytest.approx(token.scores[0], abs=1e-3)


def test_a_gate_reads_logits_and_hidden_states_and_ends_the_answer(engine: Engine) -> None:
    stop = engine.codec.encode("<|gate|>")[0]
    seen: list[tuple[int, Floats, Floats | None]] = []

    def decide(generated: Sequence[int], logits: Floats, hidden: Floats | None) -> int | None:
        seen.append((len(generated), logits, hidden))
        return stop if len(generated) == 3 else None

    asked = job(engine)
    stopping = replace(asked.stopping, token_ids=frozenset({stop}))
    gate = Gate(decide, reads_hidden=True)
    made = engine.generate(replace(asked, stopping=stopping, gate=gate))
    assert ids(made)[:3] == ids(engine.generate(asked))[:3]
    assert (made[-1].id, made[-1].finish, made[-1].stop_reason) == (stop, "stop", stop)
    assert [count for count, _, _ in seen] == [0, 1, 2, 3]
    assert all(logits.shape == (engine.graph.shape.vocabulary,) for _, logits, _ in seen)
    assert len({hidden.shape for _, _, hidden in seen if hidden is not None}) == 1


def test_embeddings_have_length_one_and_tell_texts_apart(engine: Engine) -> None:
    first, again, other = (
        engine.embed(engine.codec.encode(text))
        for text in ("What is 2 + 2?", "What is 2 + 2?", "Tell me about yourself, please.")
    )
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(first, again, atol=1e-5)
    assert float(first @ other) < 0.999


@pytest.mark.parametrize("name", ["small", "large"])
def test_the_exported_graph_is_the_trained_model(small: Path, name: str) -> None:
    assert reference_error(small.parent / name) < TOLERANCE


@pytest.mark.parametrize("name", ["small", "large"])
def test_the_exported_graph_agrees_with_transformers(small: Path, name: str) -> None:
    pytest.importorskip("torch", reason="needs the train extra")
    tokens = [1, *range(20, 90)]
    folder = small.parent / name
    difference = transformers_logits(folder, tokens) - graph_logits(folder, tokens)
    assert np.abs(difference).max() < TOLERANCE


def test_absent_files_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"model\.onnx.*deploy\.pair\.export"):
        Engine(tmp_path)


def test_damaged_files_are_named(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"no graph")
    settings = folder / "genai_config.json"
    settings.write_text("{}", encoding="utf-8")
    with pytest.raises(ModelFilesError, match=r"genai_config\.json is damaged"):
        Engine(tmp_path)
    settings.write_bytes((small / "onnx" / settings.name).read_bytes())
    with pytest.raises(ModelFilesError, match="does not load"):
        Engine(tmp_path)
    shutil.copytree(small / "onnx", folder, dirs_exist_ok=True)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Engine(tmp_path)


def test_a_prefix_is_kept_for_its_salt_alone(engine: Engine, small: Path) -> None:
    """As in vLLM: nobody can tell by the time what others have asked."""
    asked = job(engine, "The quick brown fox jumps over the lazy dog.")
    hits = []
    for salt in ("a", "a", "b", None, "b", None):
        before = engine.counters.prefix_hits
        engine.generate(replace(asked, salt=salt))
        hits.append(engine.counters.prefix_hits > before)
    assert hits == [False, True, False, False, True, True]
