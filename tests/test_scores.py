"""Scores: merged from any sharding to the same bits, saved and loaded exactly, refused when they do not fit."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from f3core.errors import ScoresError
from f3core.scores import PromptScores, Scores, ScoresHeader, merge_files
from f3core.sites import AttentionKind

KINDS = ("CA", "SA", "TA")


def make_scores(
    sites: Sequence[str] = ("transformer.a", "transformer.b", "transformer.c"),
    levels: Sequence[float] = (900.0, 700.0, 400.0, 100.0),
    prompts: Sequence[int] = (0, 1, 2),
    frames: int = 3,
    seed: int = 0,
    **header: Any,
) -> Scores:
    """Scores of random sums of very different sizes, so that the order of addition shows in the last bits."""
    heads = tuple(1 + i % 4 for i in range(len(sites)))
    shape, most = (len(sites), len(levels)), max(heads)

    def one(index: int) -> PromptScores:
        rng = np.random.default_rng([seed, index])

        def draw(*size: int) -> np.ndarray:
            return np.asarray(rng.random(size) * 10.0 ** rng.integers(-8, 8, size))

        mass = draw(*shape, most, 3)
        for i, count in enumerate(heads):
            mass[i, :, count:] = 0
        queries = rng.integers(1, 1000, shape).astype(float)
        return PromptScores(mass, queries, draw(*shape), queries + 1, draw(len(sites), frames, frames + 1))

    components = {site.partition(".")[0] for site in sites}
    return Scores(
        ScoresHeader(
            **{
                "adapter": "synthetic",
                "sites": tuple(sites),
                "heads": heads,
                "levels": tuple(levels),
                "passes": {name: {"forward": (2,) * len(levels)} for name in sorted(components)},
                "drift_target": AttentionKind.TEMPORAL,
                "removals": {site: {"TA": ("self_only", "drop")} for site in sites},
                "identity": {"seed": 0, "model": "m"},
                **header,
            }
        ),
        {index: one(index) for index in prompts},
    )


def part(scores: Scores, prompts: Sequence[int]) -> Scores:
    return Scores(scores.header, {i: scores.prompts[i] for i in prompts})


def same(one: PromptScores, other: PromptScores) -> bool:
    return all(getattr(one, n).tobytes() == getattr(other, n).tobytes() for n in PromptScores.FIELDS)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 7))
def test_any_sharding_merges_to_the_same_bits(data: st.DataObject, count: int) -> None:
    whole = make_scores(prompts=range(count))
    order = data.draw(st.permutations(range(count)))
    cuts = sorted(data.draw(st.sets(st.integers(0, count), max_size=3)) | {0, count})
    shards = [part(whole, order[a:b]) for a, b in itertools.pairwise(cuts)]
    forward = shards[0].merge(*shards[1:])
    backward = shards[-1].merge(*shards[-2::-1])
    nested = shards[0]
    for shard in shards[1:]:
        nested = shard.merge(nested)
    for merged in (forward, backward, nested):
        assert merged.header == whole.header
        assert set(merged.prompts) == set(range(count))
        assert same(merged.total(), whole.total())
        assert merged.mass(AttentionKind.TEMPORAL).tobytes() == whole.mass(AttentionKind.TEMPORAL).tobytes()


def test_merge_leaves_its_parts_alone() -> None:
    whole = make_scores()
    first, second = part(whole, [0]), part(whole, [1, 2])
    first.merge(second)
    assert (set(first.prompts), set(second.prompts)) == ({0}, {1, 2})
    assert same(first.merge().total(), first.total())


def test_a_prompt_may_be_in_one_part_only() -> None:
    whole = make_scores()
    with pytest.raises(ScoresError, match="prompt 1 is in two"):
        part(whole, [0, 1]).merge(part(whole, [1, 2]))
    with pytest.raises(ScoresError, match="prompt 2 is in two"):
        part(whole, [0]).merge(part(whole, [2]), part(whole, [2]))


OTHER_HEADERS: dict[str, Any] = {
    "adapter": "another",
    "sites": ("transformer.a", "transformer.b", "transformer.x"),
    "heads": (2, 2, 3),
    "levels": (900.0, 700.0, 400.0, math.nextafter(100.0, 0)),
    "passes": {"transformer": {"forward": (1, 2, 2, 2)}},
    "unconditional": {"transformer": {"forward": (1, 1, 1, 1)}},
    "drift_target": AttentionKind.SELF,
    "layers": (0, 0, 1),
    "removals": {},
    "lasting": {"transformer.a": {"TA": ("drop",)}},
    "framed": ("transformer.a",),
    "blocks": {"transformer.a": {"stage": "stack", "level": 0, "number": 0, "needs": [], "fixed": None}},
    "identity": {"seed": 1, "model": "m"},
    "costs": {"forward": {}, "sites": {}},
}


@pytest.mark.parametrize("name", OTHER_HEADERS)
def test_another_calibration_is_refused_by_the_field_that_differs(name: str) -> None:
    mine = make_scores(prompts=[0])
    other = Scores(dataclasses.replace(mine.header, **{name: OTHER_HEADERS[name]}), make_scores(prompts=[1]).prompts)
    with pytest.raises(ScoresError, match=rf"cannot be merged: {name}$"):
        mine.merge(other)


def test_every_header_field_is_compared() -> None:
    assert {f.name for f in dataclasses.fields(ScoresHeader)} == set(OTHER_HEADERS)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(0, 10**6), unique=True, max_size=4),
    st.lists(st.floats(0, 1000), min_size=1, max_size=4),
    st.integers(1, 3),
)
def test_files_keep_every_bit(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[int], levels: list[float], frames: int
) -> None:
    path = tmp_path_factory.mktemp("s") / "scores.safetensors"
    saved = make_scores(prompts=prompts, levels=levels, frames=frames, costs={"forward": {"t": 3}, "sites": {}})
    saved.save(path)
    loaded = Scores.load(path)
    assert loaded.header == saved.header
    assert list(loaded.prompts) == sorted(prompts)
    assert all(same(loaded.prompts[i], saved.prompts[i]) for i in prompts)


def test_merged_files_are_the_file_of_the_whole(tmp_path: Path) -> None:
    whole = make_scores(prompts=range(5))
    whole.save(tmp_path / "whole")
    for name, prompts in {"a": [3, 0], "b": [4], "c": [1, 2]}.items():
        part(whole, prompts).save(tmp_path / name)
    merge_files(tmp_path / name for name in "cab").save(tmp_path / "merged")
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    with pytest.raises(ScoresError, match="no scores file"):
        merge_files([])


def _damage(path: Path, header: str | None, drop: str = "", rename: tuple[str, str] = ("", ""), cut: str = "") -> None:
    good = make_scores(prompts=[0, 1])
    tensors = {f"{i}.{n}": getattr(p, n) for i, p in good.prompts.items() for n in PromptScores.FIELDS if n}
    tensors = {rename[1] if k == rename[0] else k: v[1:] if k == cut else v for k, v in tensors.items() if k != drop}
    metadata = None if header is None else {"f3core": good.header.to_json() if header == "good" else header}
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, metadata=metadata)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"header": None}, "not one of f3core's scores"),
        ({"header": "{"}, "damaged scores"),
        ({"header": "[]"}, "damaged scores"),
        ({"header": '{"version": 1}'}, "damaged scores"),
        ({"header": json.dumps({**json.loads(make_scores().header.to_json()), "version": 2})}, "another format"),
        ({"header": json.dumps({**json.loads(make_scores().header.to_json()), "new": 2})}, "damaged scores"),
        ({"header": json.dumps({**json.loads(make_scores().header.to_json()), "drift_target": "X"})}, "damaged scores"),
        ({"header": "good", "drop": "1.drift"}, r"1\.drift"),
        ({"header": "good", "rename": ("1.drift", "weight")}, "damaged scores"),
        ({"header": "good", "cut": "1.queries"}, "prompt 1 is not of 3 sites, 4 steps"),
    ],
)
def test_foreign_and_damaged_files_are_refused_by_name(tmp_path: Path, damage: dict[str, Any], says: str) -> None:
    path = tmp_path / "odd.safetensors"
    _damage(path, **damage)
    with pytest.raises(ScoresError, match=rf"odd\.safetensors: .*{says}"):
        Scores.load(path)


def test_what_is_no_safetensors_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    make_scores().save(path)
    whole = path.read_bytes()
    for content in (b"", b"not tensors at all", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(ScoresError, match=r"odd\.safetensors: cannot be read as scores"):
            Scores.load(path)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(ScoresError, match="cannot be read as scores"):
            Scores.load(missing)


def test_mass_and_query_heads_by_hand() -> None:
    scores = make_scores()
    for k, kind in enumerate(AttentionKind(word) for word in KINDS):
        mass = scores.mass(kind)
        assert mass.shape == (3, 4)
        for s in range(3):
            for t in range(4):
                each = [p.mass[s, t, h, k] for p in scores.prompts.values() for h in range(scores.header.heads[s])]
                assert mass[s, t] == pytest.approx(math.fsum(each), rel=1e-12)
                rows = sum(p.queries[s, t] for p in scores.prompts.values())
                assert scores.query_heads()[s, t] == rows * scores.header.heads[s]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_frame_map_is_the_mean_attention_between_frames(frames: int, tokens: int, text: int, seed: int) -> None:
    """Explicit attention of [text; frames], stored as calibration would, gives back the mean map."""
    rng = np.random.default_rng(seed)
    steps, heads, keys = 2, 3, text + frames * tokens
    attention = rng.random((steps, heads, frames * tokens, keys))
    attention /= attention.sum(-1, keepdims=True)
    segment = np.array([-1] * text + [f for f in range(frames) for _ in range(tokens)])
    query = segment[text:]
    expected = np.array(
        [[attention[:, :, query == i][..., segment == j].sum(-1).mean() for j in range(frames)] for i in range(frames)]
    )
    summed = np.array(
        [[attention[:, :, query == i][..., segment == j].sum() for j in range(frames)] for i in range(frames)]
    )
    blank = make_scores(sites=["transformer.a"], levels=[2.0, 1.0], prompts=[0])
    header = dataclasses.replace(blank.header, heads=(heads,))
    texts = np.array([attention[:, :, query == i][..., segment == -1].sum() for i in range(frames)])
    queries = np.full((1, steps), float(frames * tokens))
    both = np.concatenate([summed, texts[:, None]], axis=1)
    one = PromptScores(np.zeros((1, steps, heads, 3)), queries, queries * 0, queries, both[None])
    found = Scores(header, {0: one, 1: one}).frame_map()[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found.sum(axis=1) < 1).all()  # the rest went to text


def test_what_was_not_scored_is_refused() -> None:
    scores = make_scores()
    assert [scores.site_index(site) for site in scores.header.sites] == [0, 1, 2]
    with pytest.raises(ScoresError, match=r"'transformer\.z' was not scored"):
        scores.site_index("transformer.z")
    with pytest.raises(ScoresError, match="no prompt has been scored"):
        part(scores, []).total()


def test_an_impact_is_saved_with_the_scores_and_lost_in_a_merge(tmp_path: Path) -> None:
    from test_impact import make_impact

    impact = make_impact()
    scores = dataclasses.replace(make_scores(), impact=impact)
    scores.save(tmp_path / "s.safetensors")
    loaded = Scores.load(tmp_path / "s.safetensors")
    assert set(loaded.prompts) == {0, 1, 2}
    assert loaded.impact is not None
    assert loaded.impact.ranges == impact.ranges
    for name in impact.FIELDS:
        np.testing.assert_array_equal(getattr(loaded.impact, name), getattr(impact, name))
    assert scores.merge().impact is impact
    assert scores.merge(make_scores(prompts=[7])).impact is None
