import subprocess
import sys

import pytest

from checkpoints import Series, open_checkpoint, open_series
from checkpoints.errors import NotACheckpoint
from checkpoints.series import manifest
from checkpoints.series.manifest import ManifestRow
from checkpoints.series.series import DEMO_VARIABLE, SHIPPED, shipped_folder
from tests.checkpoints.conftest import save_model


def bare_run(root, steps, form="checkpoint-{}"):
    for step in steps:
        (root / form.format(step)).mkdir(parents=True)
    return root


def write_manifest(root, lines, header="Stage,Step,Tokens Seen,Checkpoint Directory"):
    root.mkdir(parents=True, exist_ok=True)
    (root / "manifest.csv").write_text("\n".join([header, *lines]) + "\n")
    return root


def test_folders_are_found_and_ordered_by_number(tmp_path):
    bare_run(tmp_path, [10, 9, 100, 0])
    (tmp_path / "logs").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file, not a folder")
    series = open_series(tmp_path)
    assert series.steps == (0, 9, 10, 100)
    assert series.name == tmp_path.name
    assert len(series) == 4
    assert [c.step for c in series] == [0, 9, 10, 100]


def test_a_series_shows_itself_in_a_line(tmp_path):
    series = open_series(bare_run(tmp_path / "mine", range(0, 300, 3)))
    assert repr(series) == f"<Series mine: 100 checkpoints, 0 to 297, in {tmp_path / 'mine'}>"
    assert repr(series[:1]) == f"<Series mine: 1 checkpoint, 0 to 0, in {tmp_path / 'mine'}>"


def test_slices_are_series_and_indices_checkpoints(tmp_path):
    series = open_series(bare_run(tmp_path, [0, 1, 2, 3]))
    assert isinstance(series[1:3], Series)
    assert series[1:3].steps == (1, 2)
    assert series[::2].steps == (0, 2)
    assert series[-1].step == 3


def test_stages_and_branches_are_told_apart(tmp_path):
    names = ["stage1-step10-tokens1B", "stage2-ingredient1-step10-tokens2B", "stage2-ingredient2-step10-tokens2B"]
    series = open_series(bare_run(tmp_path, names, form="{}"))
    assert [c.label for c in series] == ["stage1/10", "stage2/ingredient1/10", "stage2/ingredient2/10"]
    assert series.at("stage2/ingredient2/10").branch == "ingredient2"
    assert series.at("stage1-step10-tokens1B").tokens == 10**9
    with pytest.raises(NotACheckpoint, match=r"ambiguous.*stage1/10, stage2/ingredient1/10"):
        series.at(10)


def test_a_series_with_ingredients_is_a_graph(tmp_path):
    names = ["stage1-step10-tokens1B", "stage1-step20-tokens2B"]
    names += [f"stage2-ingredient{k}-step{step}-tokens3B" for k in (1, 2) for step in (5, 10)]
    names += ["stage3-step1-tokens4B"]
    series = open_series(bare_run(tmp_path, names, form="{}"))
    assert [c.label for c in series.parents(series.at("stage2/ingredient2/5"))] == ["stage1/20"]
    assert [c.label for c in series.parents(series.at("stage3/1"))] == [
        "stage2/ingredient1/10",
        "stage2/ingredient2/10",
    ]
    assert [[c.label for c in path] for path in series.paths()] == [
        ["stage1/10", "stage1/20", f"stage2/ingredient{k}/5", f"stage2/ingredient{k}/10", "stage3/1"] for k in (1, 2)
    ]
    graph = series.to_networkx()
    assert (len(graph), graph.number_of_edges()) == (7, 7)
    assert graph.in_degree("stage3/1") == 2


def test_a_plain_series_is_one_long_path(tmp_path):
    series = open_series(bare_run(tmp_path, range(1500)))
    (path,) = series.paths()
    assert path == series.checkpoints
    assert series.parents(series[0]) == ()


def test_a_manifest_gives_order_stage_and_tokens(tmp_path):
    root = write_manifest(
        tmp_path / "run",
        ["pretrain,10,1000,b", "pretrain,0,0,a", 'continual,20,"2,000",c', "continual,15,1.5K,d"],
    )
    series = open_series(root)
    assert [(c.stage, c.step, c.tokens, c.path.name) for c in series] == [
        ("pretrain", 0, 0, "a"),
        ("pretrain", 10, 1000, "b"),
        ("continual", 15, 1500, "d"),
        ("continual", 20, 2000, "c"),
    ]


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (["x,ten,1,a"], "Stage,Step,Tokens Seen,Checkpoint Directory", r"line 2: step 'ten'"),
        (["x,10,1,"], "Stage,Step,Tokens Seen,Checkpoint Directory", "no checkpoint directory for step 10"),
        (["x,10,lots,a"], "Stage,Step,Tokens Seen,Checkpoint Directory", "tokens seen 'lots'"),
        (["10,a"], "Step,Folder", "lacks the column 'Checkpoint Directory'"),
        ([], "Stage,Step,Tokens Seen,Checkpoint Directory", "lists no checkpoint"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_line(tmp_path, lines, header, message):
    with pytest.raises(NotACheckpoint, match=message):
        open_series(write_manifest(tmp_path, lines, header))


def test_a_manifest_that_was_written_reads_as_it_was(tmp_path):
    """In the form of the OLMo-3 releases, stages and branches in one column."""
    rows = (
        ManifestRow(10, tmp_path / "run" / "stage1" / "step10", "stage1", None, 10**9),
        ManifestRow(5, tmp_path / "elsewhere", "stage2", "ingredient1", None),
        ManifestRow(5, tmp_path / "run" / "soup, last", "stage2", "ingredient2", 2 * 10**9),
    )
    root = write_manifest(tmp_path / "run", [])
    manifest.write_manifest(root / "manifest.csv", rows)
    assert manifest.read_manifest(root / "manifest.csv") == rows
    lines = (root / "manifest.csv").read_text().splitlines()
    assert lines[:2] == ["Stage,Step,Tokens Seen,Checkpoint Directory", "stage1,10,1000000000,stage1/step10"]
    assert lines[3] == 'stage2-ingredient2,5,2000000000,"soup, last"'


def test_unknown_steps_suggest_near_ones(tmp_path):
    series = open_series(bare_run(tmp_path, [0, 100, 200, 400, 800]))
    with pytest.raises(NotACheckpoint, match=r"no step '250'; near it: 100, 200, 400 \(it has 5 steps from 0 to 800\)"):
        series.at(250)
    with pytest.raises(NotACheckpoint, match="checkpoint-400"):
        series.at("checkpoint-40")


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ("last", (1000,)),
        ("first", (0,)),
        ("all", (0, 1, 10, 100, 1000)),
        ("every 2", (0, 10, 1000)),
        ("log 3", (0, 10, 1000)),
        ("log 1", (1000,)),
        ("log 99", (0, 1, 10, 100, 1000)),
        ("1:100", (1, 10, 100)),
        (":10", (0, 1, 10)),
        ("100:", (100, 1000)),
        ("1000,0,10", (0, 10, 1000)),
        ("0, 0, last", (0, 1000)),
        ("checkpoint-10", (10,)),
    ],
)
def test_steps_are_chosen_in_words(tmp_path, words, steps):
    assert open_series(bare_run(tmp_path, [0, 1, 10, 100, 1000])).select(words).steps == steps


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("every", "needs a whole number"),
        ("every 0", "at least 1"),
        ("log x", "needs a whole number"),
        ("2:9", "chooses none of the 5"),
        ("5", "near it"),
        ("", "has no step ''"),
        ("evry 3", "has no step 'evry 3'"),
    ],
)
def test_words_not_understood_are_refused(tmp_path, words, message):
    with pytest.raises(NotACheckpoint, match=message):
        open_series(bare_run(tmp_path, [0, 1, 10, 100, 1000])).select(words)


def test_what_is_no_series_says_what_was_looked_for(tmp_path):
    with pytest.raises(NotACheckpoint, match="no such folder"):
        open_series(tmp_path / "absent")
    with pytest.raises(NotACheckpoint, match=r"looked for manifest\.csv"):
        open_series(tmp_path)
    with pytest.raises(NotACheckpoint, match="open it with open_checkpoint"):
        open_series(save_model(tmp_path / "model"))


def test_the_demo_is_where_the_environment_says(tmp_path, monkeypatch):
    bare_run(tmp_path / "demo", [0, 5])
    monkeypatch.setenv(DEMO_VARIABLE, str(tmp_path / "demo"))
    assert open_series("demo").steps == (0, 5)
    assert open_checkpoint("demo@last").step == 5
    monkeypatch.setenv(DEMO_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(NotACheckpoint, match=f"set {DEMO_VARIABLE}"):
        open_series("demo")


def test_a_shipped_series_by_its_short_name_unless_a_folder_of_that_name_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_series("natural").path == shipped_folder("natural")
    bare_run(tmp_path / "natural", [0, 7])
    assert open_series("natural").steps == (0, 7)
    monkeypatch.setitem(SHIPPED, "factbook", "not-made")
    with pytest.raises(NotACheckpoint, match=r"the factbook series is not at .*not-made: it comes with a clone"):
        open_series("factbook")


def test_a_checkpoint_by_folder_or_by_series_and_step(run_folder):
    by_folder = open_checkpoint(run_folder / "checkpoint-10")
    assert by_folder == open_checkpoint(f"{run_folder}@10") == open_series(run_folder).at("10")
    assert open_checkpoint(f"{run_folder}@last").step == 1000
    assert open_checkpoint(f"{run_folder}@checkpoint-1").step == 1
    with pytest.raises(NotACheckpoint, match="no step '11'; near it"):
        open_checkpoint(f"{run_folder}@11")
    with pytest.raises(NotACheckpoint, match="SERIES@STEP"):
        open_checkpoint("nowhere")
    with pytest.raises(NotACheckpoint, match=r"looked for config\.json"):
        open_checkpoint(run_folder)


def test_a_folder_of_a_series_takes_its_place_from_the_manifest(tmp_path):
    root = write_manifest(tmp_path / "run", ["continual,20,2000,c"])
    save_model(root / "c")
    checkpoint = open_checkpoint(root / "c")
    assert (checkpoint.stage, checkpoint.step, checkpoint.tokens) == ("continual", 20, 2000)


def test_the_trainers_state_gives_step_and_tokens(tmp_path):
    folder = save_model(tmp_path / "checkpoint-8")
    (folder / "trainer_state.json").write_text('{"global_step": 8, "num_input_tokens_seen": 4096}')
    assert open_series(tmp_path)[0].tokens == 4096
    (folder / "trainer_state.json").write_text('{"global_step": 8, "num_input_tokens_seen": 0}')
    assert open_series(tmp_path)[0].tokens is None
    model = save_model(tmp_path / "model")
    (model / "trainer_state.json").write_text('{"global_step": 12}')
    assert open_checkpoint(model).step == 12


def test_reprs_name_the_checkpoint_and_escape(tmp_path):
    root = write_manifest(tmp_path / "<run>", ["<b>,5,10,model"])
    save_model(root / "model")
    series = open_series(root)
    assert "&lt;run&gt;" in series._repr_html_()
    assert "<td><b>" not in series._repr_html_()
    assert series[0].weights_hash[:12] in series[0]._repr_html_()
    (root / "model" / "model.safetensors").unlink()
    assert "no weights" in series[0]._repr_html_()


def test_opening_imports_no_torch(run_folder):
    script = (
        "import sys, checkpoints; from checkpoints.audit import audit;"
        "from checkpoints.series.compat import require_same_model;"
        f"s = checkpoints.open_series({str(run_folder)!r}); s.select('last'); s[0].weights_hash;"
        "require_same_model(s[0], s[1]); assert audit(s).status == 0;"
        "assert not {'torch', 'transformers', 'pandas', 'plotly'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
