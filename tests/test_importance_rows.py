"""What is importance, which places there are, and how both are told and drawn."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from importances import measured, study

from f3core import importance_rows, importance_text
from f3core.block import Block, Part, Stage
from f3core.errors import ModelError, ScoresError
from f3core.importance_figure import draw
from f3core.importance_places import places_of
from f3core.sites import AttentionKind, AttentionSite, Removal, Structure

BLOCK = Structure.BLOCK


def test_worse_is_above_zero_whichever_way_a_metric_goes() -> None:
    worse, better = measured("transformer.a", 12.0, every=0.25), measured("transformer.b", 8.0, every=0.75)
    found = study(worse, better)
    assert found.importances(worse, "fid") == [2.0, 3.0]
    assert found.importance(worse, "fid").mean == 2.5
    assert found.importance(worse, "fid").sd == 0.5
    assert found.importances(better, "fid") == [-2.0, -1.0]
    assert found.importances(worse, "acc.all") == [0.25, 0.25]
    assert found.importances(better, "acc.all") == [-0.25, -0.25]
    assert found.importances(better, "damage") == list(better.damage)


@given(st.lists(st.floats(-100, 100, width=16), min_size=2, max_size=6))
def test_a_metric_that_goes_the_other_way_turns_importance_round(values: list[float]) -> None:
    places = [measured(f"transformer.{i}", value) for i, value in enumerate(values)]
    found, turned = study(*places), study(*places, higher_is_better={"fid": True, "acc": True})
    for one in places:
        assert found.importance(one, "fid").mean == -turned.importance(one, "fid").mean
    agreed, against = found.agreement("guess", "fid"), turned.agreement("guess", "fid")
    if len(set(values)) > 1:
        assert agreed == pytest.approx(1)  # the guess is the figure itself
        assert against == pytest.approx(-1)
        assert found.between_seeds("fid") == pytest.approx(1)
    else:
        assert agreed is against is found.between_seeds("fid") is None


def test_figures_are_asked_for_by_metric_where_that_says_which() -> None:
    found = study(measured("transformer.a", 12.0, some=0.0), measured("transformer.b", 13.0))
    assert found.figures == ("fid", "acc.all", "acc.some", "damage")
    assert found.telling == ("fid", "acc.some", "damage")
    assert [found.figure(word) for word in ("fid", "damage", "acc.all")] == ["fid", "damage", "acc.all"]
    with pytest.raises(ScoresError, match=r"'acc' has several figures; there are acc\.all, acc\.some$"):
        found.figure("acc")
    with pytest.raises(ScoresError, match=r"no figure 'fud' was measured; there are fid, acc\.all, acc\.some, damage"):
        found.figure("fud")


def test_what_is_no_number_correlates_with_nothing_and_is_drawn_as_nothing(tmp_path: Path) -> None:
    endless = ({"fid": math.inf, "acc.all": 0.5, "acc.some": 1.0},) * 2
    found = study(measured("transformer.a", 1.0), measured("transformer.b", 2.0), unpruned=endless)
    assert found.agreement("guess", "fid") is None
    assert found.agreement("guess", "damage") == pytest.approx(1)
    draw(found, tmp_path / "it.png")
    (tmp_path / "importance.json").write_text(found.model_dump_json())
    assert importance_rows.load(tmp_path) == found


def test_what_is_no_study_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ScoresError, match=r"gone.json: cannot be read: .*importance.json that `f3core importance`"):
        importance_rows.load(tmp_path / "gone.json")
    other = tmp_path / "rank_study.json"
    other.write_text('{"version": 2, "target": "TA"}')
    with pytest.raises(ScoresError, match=r"rank_study.json: no study of importance"):
        importance_rows.load(other)


def test_tables_say_what_stays_and_what_a_guess_is_worth() -> None:
    together = {"sites": ("unet.samplers", "unet.mid_block"), "stage": Stage.MID, "level": 1, "number": 1}
    found = study(
        measured("unet.a", 12.0, stage=Stage.DOWN, level=0, number=0),
        measured("unet.samplers with mid_block", 8.0, **together),
        staying={"unet.b": "it changes the width"},
        unable={"aas": "no attention"},
    )
    text = importance_text.to_markdown(found)
    assert "| without | fid rises by | acc.all falls by | acc.some falls by | damage | MACs saved |" in text
    assert "| unet.samplers with mid_block | −1.5 ± 0.5 |" in text
    assert "| 10.0 % | 10.0 % |" in text
    assert "| guess | +1.00 |" in text
    assert "| unet.b | it changes the width |" in text
    assert "aas is not among the criteria: no attention." in text


# --- places ---------------------------------------------------------------------------------------------------------


def block(path: str, *needs: str, fixed: str | None = None) -> Block:
    return Block("unet", path, 0, (Part(path),), needs=needs, fixed=fixed)


def able(blocks: list[Block]) -> set[str]:
    return {one.fqn for one in blocks if one.ways(BLOCK)}


def test_a_block_goes_with_what_it_needs_and_stays_where_that_stays() -> None:
    blocks = [
        block("a"),
        block("b", "a", "c"),
        block("c", "d"),
        block("d"),
        block("e", fixed="it must"),
        block("f", "b", "e"),
    ]
    places, staying = places_of(blocks, BLOCK, able(blocks))
    assert [(one.name, one.sites) for one in places] == [
        ("unet.a", ("unet.a",)),
        ("unet.b with a, c, d", ("unet.b", "unet.a", "unet.c", "unet.d")),
        ("unet.c with d", ("unet.c", "unet.d")),
        ("unet.d", ("unet.d",)),
    ]
    assert staying == {"unet.e": "it must", "unet.f": "it needs unet.e to go too, which stays: it must"}


def test_blocks_that_need_each_other_are_one_place() -> None:
    blocks = [block("a", "b"), block("b", "a")]
    places, staying = places_of(blocks, BLOCK, able(blocks))
    assert [one.sites for one in places] == [("unet.a", "unet.b")]
    assert not staying


def test_a_need_that_is_not_there_is_the_adapters_mistake() -> None:
    with pytest.raises(ModelError, match=r"unet\.a needs unet\.mid, which its adapter does not list"):
        places_of([block("a", "mid")], BLOCK, {"unet.a"})


@given(st.data())
def test_every_block_is_in_a_place_or_stays_and_places_can_go(data: st.DataObject) -> None:
    names = [f"b{i}" for i in range(data.draw(st.integers(1, 7)))]
    blocks = [
        block(name, *data.draw(st.sets(st.sampled_from(names))), fixed=data.draw(st.sampled_from([None, None, "why"])))
        for name in names
    ]
    places, staying = places_of(blocks, BLOCK, able(blocks))
    by_fqn = {one.fqn: one for one in blocks}
    for one in places:
        for fqn in one.sites:
            assert by_fqn[fqn].fixed is None
            assert {f"unet.{need}" for need in by_fqn[fqn].needs} <= set(one.sites)
    assert len({frozenset(one.sites) for one in places}) == len(places)
    assert {fqn for one in places for fqn in one.sites} | staying.keys() == by_fqn.keys()
    assert not {one.head.fqn for one in places} & staying.keys()


def test_sites_that_hold_nothing_of_a_kind_are_no_places() -> None:
    TA, CA = AttentionKind.TEMPORAL, AttentionKind.CROSS
    sites = [
        AttentionSite("t", "a", 0, (TA,), {TA: (Removal.DROP,)}),
        AttentionSite("t", "b", 1, (CA,), {CA: (Removal.DROP,)}),
        AttentionSite("t", "c", 2, (TA,)),
    ]
    places, staying = places_of(sites, TA, {"t.a"})
    assert [one.name for one in places] == ["t.a"]
    assert staying == {"t.c": "no removal of TA is sound there"}
