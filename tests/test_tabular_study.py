"""Studies of a finite world: their files, their cells, exact measurement, optima, kill and resume, and the report."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from goodhart.alignment.exact import why_sampled
from goodhart.alignment.methods import METHODS
from goodhart.alignment.optimum import Seen, equilibrium, mixed, optimum_of, tilted
from goodhart.cells.cell import closure
from goodhart.cells.make import make
from goodhart.cells.store import Store
from goodhart.cli import main
from goodhart.errors import GoodhartError
from goodhart.evaluation.enumerated import pairs, rows
from goodhart.recipes import tabular_run
from goodhart.recipes.tabular_run import read_law
from goodhart.recipes.world import PROXY_FILE, WORLD_FILE, read_tables
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from goodhart.tasks.world import World
from goodhart.tasks.world_tables import tables
from test_tabular_world import equilibrium as by_iteration

SMALL = {"kind": "condorcet", "prompts": 3, "responses": 4}
STILL = {"decay": "linear", "beta1": 0.0}
REFUSED = {
    "dpo-prior": "prior",
    "dpo-external": "external",
    "dr-po": "prefix",
    "dice": "equally|one token",
    "h2o-ipo": "replays pairs",
    "warp": "no layers",
    "merged-dpo": "no layers",
}


def write(folder, world=SMALL, arms=None, **more):
    arms = arms or {"one": {"method": "online-ipo", "mode": "soft", "beta": [0.3]}}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "world": world, "arms": arms, "resamples": 20, **more}))
    return str(path)


def arm(method, **keys):
    return {"method": method, "lr": [0.1], "steps": 60, "checkpoints": 1, **keys}


def made(folder, world=SMALL, arms=None, root="runs", **more):
    """The graph of a study with all its cells made, and their store."""
    graph, store = build_graph(read_study(write(folder, world, arms, **more), [])), Store(folder / root)
    for cell in closure(graph.targets):
        assert make(store, cell)
    return graph, store


def result(store, cell):
    return store.record(cell.id)["result"]


class TestWorlds:
    @pytest.mark.parametrize("size", [3, 4, 5, 8])
    def test_a_condorcet_world_has_a_condorcet_winner_that_is_not_the_borda_winner(self, size):
        found = tables(World(kind="condorcet", prompts=40, responses=size))
        assert None not in found.condorcet
        assert all(c != b for c, b in zip(found.condorcet, found.borda, strict=True))

    @pytest.mark.parametrize("kind", ["transitive", "cyclic", "condorcet"])
    def test_both_orders_add_up_to_one(self, kind):
        wins = tables(World(kind=kind, prompts=5, responses=6)).wins
        np.testing.assert_array_equal(wins + wins.transpose(0, 2, 1), 1.0)

    def test_a_cyclic_world_has_no_winner(self):
        found = tables(World(kind="cyclic", prompts=10, responses=5))
        assert set(found.condorcet) == {None}
        assert ((found.wins > 0.5).sum(2) == 2).all()

    def test_a_transitive_world_is_that_of_its_rewards(self):
        found = tables(World(kind="transitive", prompts=4, reward="given"))
        margin = found.reward[:, :, None] - found.reward[:, None, :]
        np.testing.assert_allclose(found.wins, 1 / (1 + np.exp(-margin)), atol=1e-15)

    def test_a_prompt_is_the_same_in_a_larger_world(self):
        small, large = (tables(World(prompts=number)) for number in (2, 5))
        np.testing.assert_array_equal(small.wins, large.wins[:2])
        assert not np.array_equal(small.wins, tables(World(prompts=2, seed=1)).wins)

    def test_the_usual_reward_is_the_logit_of_the_win_rate_against_the_reference(self):
        found = tables(World(prompts=2, reference="random"))
        rate = sum(found.wins[1, 2, j] * found.reference[1, j] for j in range(4))
        assert found.reward[1, 2] == pytest.approx(np.log(rate / (1 - rate)))


class TestMeasurement:
    def test_enumeration_agrees_with_brute_force(self):
        world = tables(World(prompts=2, responses=3, reference="random"))
        draw = np.random.default_rng(0)
        law, golden = (draw.dirichlet(np.ones(3), size=2) for _ in range(2))
        found = rows(law, world, golden, 1 - world.wins).to_pylist()
        for x, row in enumerate(found):
            both = list(product(range(3), repeat=2))
            for name, other in (("policy", golden), ("sft", world.reference)):
                rate = sum(law[x, i] * other[x, j] * world.wins[x, i, j] for i, j in both)
                assert row[f"golden_vs_{name}"] == row[f"golden_p_vs_{name}"] == pytest.approx(rate)
                assert row[f"proxy_vs_{name}"] == pytest.approx(1 - rate)
            kl = sum(law[x, i] * (np.log(law[x, i]) - np.log(world.reference[x, i])) for i in range(3))
            assert row["kl"] == pytest.approx(kl)
            assert row["logp"] - row["ref_logp"] == pytest.approx(kl)
            assert row["entropy"] == -row["logp"]

    def test_a_law_that_has_lost_responses_has_finite_numbers(self):
        world = tables(World(prompts=1, responses=3))
        law = np.array([[1.0, 0.0, 0.0]])
        row = rows(law, world, law, world.wins).to_pylist()[0]
        assert row["kl"] == pytest.approx(np.log(3))
        assert row["golden_vs_policy"] == 0.5
        assert np.isfinite(pairs(law, world, None).column("rho_w").to_numpy()).all()

    def test_the_reference_has_no_kl_and_every_pair_is_classified(self):
        world = tables(World(prompts=2, responses=4))
        table = rows(world.reference, world, world.reference, world.wins)
        assert table.column("kl").to_pylist() == [0.0, 0.0]
        found = pairs(world.reference, world, [(0, 1, 2), (0, 1, 2), (1, 3, 3)]).to_pylist()
        assert sum(row["split"] == "held_out" for row in found) == 2 * 6
        assert [row["prompt"] for row in found if row["split"] == "train"] == [world.asked[0].id]


class TestOptima:
    @pytest.mark.parametrize("kind", ["cyclic", "condorcet"])
    def test_the_equilibrium_is_what_slow_iteration_finds(self, kind):
        world = tables(World(kind=kind, prompts=2, responses=5, reference="random"))
        fast = equilibrium(world.reference, world.wins, 0.2)
        slow = [by_iteration(ref, wins, 0.2) for ref, wins in zip(world.reference, world.wins, strict=True)]
        np.testing.assert_allclose(fast, slow, atol=1e-9)

    def test_at_a_small_beta_the_equilibrium_is_the_condorcet_winner(self):
        world = tables(World(prompts=6))
        law = equilibrium(world.reference, world.wins, 0.01)
        assert (law[np.arange(6), world.condorcet] > 0.98).all()

    def test_with_a_mixture_the_opponent_is_nearer_to_the_reference(self):
        world = tables(World(prompts=2, reference="random"))
        law = equilibrium(world.reference, world.wins, 0.1, share=0.5)
        opponent = mixed(law, world.reference, 0.5)
        again = tilted(world.reference, np.einsum("xij,xj->xi", world.wins, opponent), 0.1)
        np.testing.assert_allclose(again, law, atol=1e-9)

    def test_what_has_no_rest_has_no_optimum(self):
        """Hard labels of a strict order are separable: the margins of DPO grow for ever."""
        world = tables(World(kind="transitive", prompts=2))
        assert optimum_of(METHODS["online-dpo"].method, Seen(world, world.reference), 0.1) is None
        assert optimum_of(METHODS["robust-dpo"].method, Seen(world, world.reference), 0.1) is None
        assert optimum_of(METHODS["tr-dpo"].method, Seen(world, world.reference), 0.1) is None

    def test_every_known_optimum_is_reached_through_the_loop(self, tmp_path):
        """With all tuples of responses, or all of the data, in every step; total variation to the law, every prompt."""
        usual = {"steps": 120, "optimisation": STILL, "lr": [0.15]}
        arms = {
            "ipo": arm("ipo", beta=[0.3], **usual),
            "squared": arm("gpo-squared", beta=[0.5], **usual),
            "dpo": arm("dpo", beta=[0.5], **usual),
            "cdpo": arm("cdpo", beta=[0.5], **usual),
            "vpo": arm("vpo-offline", beta=[0.5], parameters={"alpha": 0.2}, **usual),
            "winners": arm("best-of-2", beta=[], **usual),
            "dro": arm("dro-v", beta=[0.5], parameters={"value_lr": 0.05}, **usual),
            "online ipo": arm("online-ipo", beta=[0.2], mode="soft", **usual),
            "signs": arm("online-ipo", beta=[0.5], **usual),
            "semi-online": arm("online-ipo", beta=[0.3], mode="soft", refresh=4, **usual),
            "stale": arm("online-ipo", beta=[0.3], mode="soft", refresh=0, **usual),
            "online dpo": arm("online-dpo", beta=[0.5], mode="soft", **usual),
            "ipo-md": arm("ipo-md", beta=[0.3], **usual),
            "nash-md": arm("nash-md", beta=[0.2], **usual),
            "nash": arm("nash-md", beta=[0.2], parameters={"share": 0.0}, **usual),
            "rloo": arm("rloo", beta=[], parameters={"kl": 0.7}, **usual),
            "reinforce": arm("reinforce", beta=[], parameters={"kl": 0.7}, **usual),
            "ppo": arm("ppo", beta=[], parameters={"kl": 0.7, "value_lr": 0.05}, **usual),
            "rebel": arm("rebel", beta=[], parameters={"kl": 0.7}, **usual),
            "bond": arm(
                "bond",
                beta=[],
                parameters={"mix": 0.0},
                drawn=["policy"] + 3 * ["reference"],
                **{**usual, "steps": 250},
            ),
        }
        graph, store = made(tmp_path, {**SMALL, "prompts": 2, "reference": "random"}, arms, seeds=[0])
        found = {name: result(store, cell) for (name, _, _), cell in graph.runs.items()}
        assert {name: each["gradient"] for name, each in found.items()} == dict.fromkeys(arms, "exact")
        missed = {name: each.get("furthest") for name, each in found.items() if not each.get("furthest", 1) < 1e-3}
        assert not missed
        assert found["nash"]["optimum"] == found["online ipo"]["optimum"] == "Nash equilibrium"

    def test_samples_end_near_the_same_law(self, tmp_path):
        world = {**SMALL, "prompts": 2, "gradient": "sampled"}
        arms = {"one": arm("online-ipo", mode="soft", beta=[0.3], steps=150, batch=64, optimisation=STILL)}
        graph, store = made(tmp_path, world, arms, seeds=[0])
        found = result(store, graph.runs["one", "beta=0.3 lr=0.1", 0])
        assert found["gradient"] == "sampled"
        assert 1e-5 < found["furthest"] < 0.04


class TestMethods:
    def test_every_method_runs_or_is_refused_by_its_name(self, tmp_path):
        arms = {name: arm(name, steps=3, batch=6) for name in METHODS if name not in REFUSED}
        graph, store = made(tmp_path, {**SMALL, "prompts": 2}, arms, seeds=[0])
        for cell in graph.runs.values():
            assert np.isfinite(result(store, cell)["last"]["loss"])
        for name, why in REFUSED.items():
            own = {"one": {"method": name, **({"external": "v"} if name == "dpo-external" else {})}}
            with pytest.raises(GoodhartError, match=f"arm 'one' \\({name}\\).*{why}"):
                read_study(write(tmp_path, arms=own), [])

    def test_what_cannot_be_enumerated_is_sampled_and_says_why(self):
        assert why_sampled(METHODS["online-ipo"].method, 4) == ""
        assert why_sampled(METHODS["dpo"].method, 32) == ""
        assert "selects" in why_sampled(METHODS["raft"].method, 4)
        assert "65,536 tuples of 8" in why_sampled(METHODS["grpo"].method, 4)
        assert "coins" in why_sampled(replace(METHODS["online-ipo"].method, mode="bernoulli"), 4)
        assert "data" in why_sampled(METHODS["selm"].method, 4)


class TestFiles:
    @pytest.mark.parametrize(
        ("keys", "says"),
        [
            ({"policy": "tiny"}, "policy is not read"),
            ({"task": {"kind": "docstrings"}}, "task is not read"),
            ({"golden_policy": {"beta": [0.1]}}, "golden_policy is not read"),
            ({"labels": {"number": 9}}, "world.data is population"),
            ({"world": {"kind": "cyclic", "reward": "given"}}, "no rewards of its own"),
            ({"world": {"kind": "csv"}}, "names its file"),
            ({"world": {"kind": "csv", "file": "x.csv", "prompts": 3}}, "world.prompts is not read"),
            ({"world": {"kind": "cyclic", "reference": "column"}}, "no column reference"),
            ({"arms": {"one": {"source": "stream", "stream": "one", "labeller": "data"}}}, "source 'stream'"),
        ],
    )
    def test_what_has_no_meaning_is_refused(self, tmp_path, keys, says):
        with pytest.raises(GoodhartError, match=says):
            read_study(write(tmp_path, **keys), [])

    def test_a_stream_cannot_be_asked_about(self, tmp_path):
        asked = {"statistic": "stream accuracy", "first": "proxy", "second": "one", "stream": "one"}
        with pytest.raises(GoodhartError, match="asks for a stream"):
            read_study(write(tmp_path, hypotheses={"h": {"statement": "s", "contrasts": [asked]}}), [])


class TestCells:
    def test_addresses_are_stable(self, tmp_path):
        """They are what finished cells are found by."""
        graph = build_graph(read_study(write(tmp_path), []))
        assert {cell.id.rpartition("-")[0] for cell in closure(graph.targets)} == {
            "world",
            "tabular-run",
            "tabular-evaluation",
        }
        settings = {cell.kind: cell.spec["settings"] for cell in closure(graph.targets)}
        assert settings["world"] == {"world": {"prompts": 3}}
        run = {"beta": [0.3], "mode": "soft"}
        assert settings["tabular run"] == {"arm": run, "seed": 0, "exact": True}

    def test_seeds_of_an_expectation_are_one_run_and_those_of_samples_are_not(self, tmp_path):
        arms = {"exact": arm("ipo"), "sampled": arm("raft")}
        graph = build_graph(read_study(write(tmp_path, arms=arms, seeds=[3, 4]), []))
        ids = {name: {c.id for (arm, _, _), c in graph.runs.items() if arm == name} for name in arms}
        assert len(ids["exact"]) == 1
        assert len(ids["sampled"]) == 2

    def test_what_draws_no_world_leaves_its_cell(self, tmp_path):
        def world(**keys):
            labels = {"labels": {"number": 8}} if keys.get("data") == "labels" else {}
            return build_graph(read_study(write(tmp_path, {**SMALL, **keys}, **labels), [])).golden.id

        assert world() == world(data="labels", prior=2.0) == world(gradient="sampled")
        assert len({world(), world(seed=1), world(golden_beta=0.2), world(kind="cyclic")}) == 4

    def test_a_run_that_is_killed_goes_on_to_the_same_policy(self, tmp_path, monkeypatch):
        """Delayed samples, a moving reference and a value beside the policy have states of their own."""
        arms = {
            "delayed": arm("semi-online-dpo", steps=12, checkpoints=4, batch=6),
            "moving": arm("tr-dpo", steps=12, checkpoints=4, parameters={"reference_every": 2.0}),
            "value": arm("ppo", steps=12, checkpoints=4),
        }
        graph, whole = made(tmp_path, arms=arms, seeds=[0])
        train = tabular_run.train

        def killed(*given, **how):
            for step in train(*given, **how):
                yield step
                if step.step == 7:
                    raise KeyboardInterrupt

        store = Store(tmp_path / "again")
        assert make(store, graph.golden)
        for cell in graph.runs.values():
            with monkeypatch.context() as patched:
                patched.setattr(tabular_run, "train", killed)
                with pytest.raises(KeyboardInterrupt):
                    make(store, cell)
            assert make(store, cell)
            for step in (3, 6, 9, 12):
                laws = [read_law(each.folder(cell.id) / f"step-{step}.parquet") for each in (whole, store)]
                np.testing.assert_array_equal(*laws)
            lines = (store.folder(cell.id) / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in lines] == list(range(1, 13))


class TestLabels:
    def test_the_proxy_is_the_empirical_win_matrix_with_its_prior(self, tmp_path):
        for number, prior in ((6000, 1.0), (5, 1.0)):
            world = {**SMALL, "data": "labels", "prior": prior}
            folder = tmp_path / str(number)
            folder.mkdir()
            own = {"number": number, "mode": "bernoulli"}
            graph, store = made(folder, world, {"one": arm("ipo", steps=2)}, labels=own, seeds=[0])
            truth, golden = read_tables(store.folder(graph.golden.id) / WORLD_FILE)
            proxy, none = read_tables(store.folder(graph.proxy.id) / PROXY_FILE)
            assert golden is not None
            assert none is None
            np.testing.assert_allclose(proxy.wins + proxy.wins.transpose(0, 2, 1), 1.0)
            apart = np.abs(proxy.wins - truth.wins).max()
            assert apart < 0.1 if number == 6000 else apart > 0.1

    def test_with_few_labels_the_proxy_is_gained_on_and_the_truth_is_not(self, tmp_path):
        world = {**SMALL, "prompts": 8, "data": "labels", "prior": 0.1}
        arms = {"one": arm("online-ipo", mode="soft", beta=[0.05], steps=80)}
        graph, store = made(tmp_path, world, arms, labels={"number": 64, "mode": "bernoulli"}, seeds=[0])
        last = graph.measured[-1]
        found = pq.read_table(store.folder(last.cell.id) / last.rows)
        golden, proxy = (float(np.mean(found.column(f"{judge}_vs_sft"))) for judge in ("golden", "proxy"))
        assert proxy > golden + 0.05


def test_a_study_runs_to_its_report_and_goes_on_from_its_cells(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    arms = {
        "online": arm("online-ipo", mode="soft", beta=[0.1, 0.05], steps=40, checkpoints=3, spacing="log"),
        "offline": arm("ipo", beta=[0.1, 0.05], steps=40, checkpoints=3, spacing="log"),
        "sampled": arm("raft", steps=20, batch=6, checkpoints=2),
    }
    contrast = {"statistic": "gap at equal KL", "first": "online", "second": "offline"}
    hypotheses = {"gap": {"statement": "Online is ahead.", "contrasts": [contrast]}}
    study = write(tmp_path, {**SMALL, "prompts": 6}, arms, hypotheses=hypotheses, seeds=[0, 1])
    root = ["--root", str(tmp_path / "runs"), "--workers", "1"]
    main(["run", study, *root])
    printed = capsys.readouterr().out
    assert "Predicted optimum beside what was found" in printed
    assert "Nash equilibrium" in printed
    folder = tmp_path / "runs" / "studies" / "small"
    page = (folder / "report.html").read_text()
    assert "Policies are tables" in page
    assert 'id="optima"' in page
    assert not [name for name in ("samples", "judges", "data") if f'id="{name}"' in page]
    record = json.loads((folder / "record.json").read_text())
    assert "policy" not in record["study"]
    assert {line["arm"] for line in record["optima"]} == set(arms)
    held = pq.read_table(folder / "rows.parquet")
    assert set(held.column("arm").to_pylist()) == {"sft", "golden policy", *arms}
    main(["run", study, *root])
    assert "cells are done" in capsys.readouterr().out
    main(["status", study, "--root", str(tmp_path / "runs")])
    assert "missing" not in capsys.readouterr().out
