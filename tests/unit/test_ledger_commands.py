"""`fastslow rollouts` and `fastslow contexts`. Locks: conditions can only read; hostile text is shown, never obeyed; a
running run can be read; older ledgers are read and migrated, newer ones refused; each mistake is one line; every query
of docs/ledger.md works."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from ledger_fakes import fake_run
from rich.console import Console

from fastslow.cli import main
from fastslow.errors import RunError
from fastslow.report.contexts import difference, lineage_tree
from fastslow.report.rollouts import rollouts_table
from fastslow.runs import ledger_schema
from fastslow.runs.fates import Fate
from fastslow.runs.ledger import Ledger
from fastslow.runs.ledger_query import open_ledger, query_rollouts, read_contexts
from fastslow.types import Context, Rollout

ROOT = Path(__file__).resolve().parents[2]
QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8"), re.DOTALL)
EVIL = "[red]\x1b[2J\x07:smile: \u202eoff\x00\ud800\n| <b> \\"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ledger") / "run"
    fake_run(folder)
    return folder


def call(monkeypatch, capfd, *args: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["fastslow", *map(str, args)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


def assert_refused(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert code == 2 and not out and err.count("\n") == 1, result
    for part in ("fastslow: ", *parts):
        assert part in err, err


def rollout(**changes) -> Rollout:
    values = dict(
        problem_id="p", context_id="abc", weights_step=3, phase="slow", seed=2**62, prompt_ids=(1, 2, 3), shared=2,
        completion_ids=(4, 5), logprobs=(-0.5, -0.25), text="7", finish_reason="stop", reward=1.0,
    )  # fmt: skip
    return Rollout(**{**values, **changes})


def shown(renderable) -> str:
    console = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None, emoji=True)
    console.print(renderable)
    return console.file.getvalue()


def assert_harmless(text: str) -> None:
    assert "[red]" in text and ":smile:" in text, "text was taken for markup"
    assert not {c for c in text if not c.isprintable() and c != "\n"}


def test_the_table_shows_the_newest_twenty(folder, monkeypatch, capfd):
    total = len(list(query_rollouts(folder)))
    code, out, err = call(monkeypatch, capfd, "rollouts", folder)
    assert code == 0, err
    assert re.findall(r"^\W*(\d+) ", out, re.MULTILINE) == [str(i) for i in range(total - 19, total + 1)]
    _, out, _ = call(monkeypatch, capfd, "rollouts", folder / "ledger.sqlite", "--limit", "2", "--where", "id <= 7")
    assert re.findall(r"^\W*(\d+) ", out, re.MULTILINE) == ["6", "7"]


def test_json_lines_and_parquet_hold_every_column_of_every_row(folder, tmp_path, monkeypatch, capfd):
    import pyarrow.parquet as pq

    with open_ledger(folder) as db:
        expected = [dict(row) for row in db.execute("SELECT * FROM rollouts ORDER BY id")]
    _, out, _ = call(monkeypatch, capfd, "rollouts", folder, "--format", "jsonl")
    assert [json.loads(line) for line in out.splitlines()] == expected
    for form, read in (("jsonl", None), ("parquet", pq.read_table)):
        path = tmp_path / f"r.{form}"
        code, out, err = call(monkeypatch, capfd, "rollouts", folder, "--format", form, "--out", path)
        assert code == 0 and f"{len(expected)} rollouts: " in out, err
        found = read(path).to_pylist() if read else [json.loads(line) for line in path.read_text().splitlines()]
        assert found == expected
    call(monkeypatch, capfd, "rollouts", folder, "--format", "parquet", "--out", path, "--where", "reward > 2")
    table = pq.read_table(path)
    assert table.num_rows == 0 and table.column_names == list(expected[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "r.parquet"]


@pytest.mark.parametrize(
    "where",
    [
        "1); DELETE FROM rollouts; --",
        "id IN (DELETE FROM rollouts RETURNING id)",
        "1); ATTACH 'other.db' AS other; --",
        "1); PRAGMA query_only = 0; --",
        "load_extension('x')",
        "1 IN (SELECT 1 FROM pragma_table_info('rollouts'))",
        "1 IN (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c)",
        "writefile('x', 'y')",
        "zeroblob(3000000000) IS NULL",
        "nope > 1",
        "reward >",
        "'unclosed",
        "\x00",
    ],
)
def test_a_condition_that_does_more_than_read_is_one_line(folder, tmp_path, monkeypatch, capfd, where):
    monkeypatch.chdir(tmp_path)
    before = (folder / "ledger.sqlite").read_bytes()
    assert_refused(call(monkeypatch, capfd, "rollouts", folder, "--where", where), "--where ", "columns: id, phase")
    assert (folder / "ledger.sqlite").read_bytes() == before and not list(tmp_path.iterdir())


def test_the_connection_itself_refuses_all_but_reading(folder):
    statements = [
        "DELETE FROM rollouts",
        "ATTACH 'x' AS y",
        "PRAGMA query_only = OFF",
        "CREATE TEMP TABLE t (x)",
        "BEGIN",
    ]
    for statement in statements:
        with pytest.raises(RunError, match="not authorized"), open_ledger(folder) as db:
            db.execute(statement)


def test_a_condition_may_ask_the_other_tables(folder):
    accepted = {r["context_id"] for r in query_rollouts(folder, "context_id IN (SELECT id FROM contexts)")}
    assert accepted == {r["context_id"] for r in query_rollouts(folder)}


def test_a_run_is_read_while_it_is_written(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.add_rollouts("slow", 1, [rollout(), rollout()])
        reading = query_rollouts(path)
        next(reading)
        ledger.add_rollouts("slow", 2, [rollout()])
        assert len(list(reading)) == 1, "a reader sees the moment at which it began"
        assert len(list(query_rollouts(path))) == 3


@pytest.mark.parametrize("command", ["rollouts", "contexts"])
def test_a_ledger_that_cannot_be_read_is_one_line(tmp_path, monkeypatch, capfd, command):
    for name in ("empty", "foreign", "newer", "garbage"):
        (tmp_path / name).mkdir()
    sqlite3.connect(tmp_path / "foreign" / "ledger.sqlite").execute("CREATE TABLE precious (x)").connection.close()
    Ledger(tmp_path / "newer" / "ledger.sqlite").close()
    with sqlite3.connect(tmp_path / "newer" / "ledger.sqlite") as db:
        db.execute(f"PRAGMA user_version = {ledger_schema.SCHEMA_VERSION + 1}")
    db.close()
    (tmp_path / "garbage" / "ledger.sqlite").write_bytes(b"no database at all" * 1000)
    for name, part in (
        ("nowhere", "no such ledger; give the folder of a run"),
        ("empty", "no such ledger; give the folder of a run"),
        ("foreign", "not a ledger of fastslow; give the folder of a run"),
        ("newer", "newer than"),
        ("garbage", "damaged"),
    ):
        assert_refused(call(monkeypatch, capfd, command, tmp_path / name), part)
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    "args, part",
    [
        (["rollouts", "--format", "csv"], "--format csv: not known; choose from table, jsonl, parquet"),
        (["rollouts", "--format", "parquet"], "add --out rollouts.parquet"),
        (["rollouts", "--out", "x"], "--out: only for --format jsonl or parquet"),
        (["contexts", "--format", "xml"], "--format xml: not known; choose from tree, json"),
        (["contexts", "--format", "json", "--diffs"], "--diff: only for --format tree"),
        (["contexts", "--diff", "zz"], "--diff zz: no such context; give an id such as "),
        (["contexts", "--diff", ""], "--diff : no such context"),
    ],
)
def test_options_that_do_not_fit_are_one_line(folder, monkeypatch, capfd, args, part):
    assert_refused(call(monkeypatch, capfd, args[0], folder, *args[1:]), part)


def test_the_ledger_is_not_overwritten_by_its_own_export(folder, monkeypatch, capfd):
    path = folder / "ledger.sqlite"
    before = path.read_bytes()
    assert_refused(
        call(monkeypatch, capfd, "rollouts", folder, "--format", "parquet", "--out", path), "the ledger itself"
    )
    assert path.read_bytes() == before


def hostile(path: Path) -> Path:
    seed = Context({"instructions": "", EVIL: ""})
    child = Context({"instructions": f"one\n{EVIL}\nthree", EVIL: EVIL}, (seed.id,), 0, EVIL)
    with Ledger(path) as ledger:
        ledger.add_contexts(0, [Fate(seed, "seed"), Fate(child, "rejected", EVIL)])
        ledger.add_rollouts(
            "slow", 1, [rollout(problem_id=EVIL, text=EVIL, feedback=EVIL, context_id=child.id, finish_reason="length")]
        )
    return path


def test_hostile_text_is_shown_and_never_obeyed(tmp_path, capfd, monkeypatch):
    path = hostile(tmp_path / "ledger.sqlite")
    contexts = read_contexts(path)
    by_id = {c.id: c for c in contexts}
    assert_harmless(shown(rollouts_table(query_rollouts(path))))
    assert_harmless(shown(lineage_tree(contexts, "[red]run:smile:")))
    assert_harmless(shown(difference(contexts[1], by_id)))
    for args in (["rollouts", path, "--format", "jsonl"], ["contexts", path, "--format", "json"]):
        _, out, _ = call(monkeypatch, capfd, *args)
        assert out.isascii() and "\x1b" not in out and "\x00" not in out


def test_the_tree_has_every_context_once(folder, monkeypatch, capfd):
    contexts = read_contexts(folder)
    code, out, err = call(monkeypatch, capfd, "contexts", folder)
    assert code == 0, err
    for context in contexts:
        assert len(re.findall(rf"{context.id}  cycle {context.birth_cycle}", out)) == 1
    assert out.count("in use") == sum(c.in_use for c in contexts) + 1  # and once in the title
    _, out, _ = call(monkeypatch, capfd, "contexts", folder, "--accepted")
    ever = {c.id for c in contexts if any(f.outcome == "accepted" for f in c.fates)} | {contexts[0].id}
    assert set(re.findall(r"([0-9a-f]{12})  cycle", out)) == ever and len(ever) < len(contexts)


def test_a_crossing_hangs_under_its_first_parent_and_names_the_second(tmp_path):
    a, b = Context({"instructions": "a"}), Context({"instructions": "b"})
    crossing = Context({"instructions": "c"}, (a.id, b.id), 1, "merge")
    with Ledger(tmp_path / "l") as ledger:
        ledger.add_contexts(0, [Fate(c, "accepted") for c in (a, b, crossing)])
    tree = lineage_tree(read_contexts(tmp_path / "l"), "run")
    under_a, under_b = tree.children
    assert [len(t.children) for t in (under_a, under_b)] == [1, 0]
    assert f"crossed with {b.id}" in under_a.children[0].label.plain


def test_the_tree_survives_a_circle_and_a_missing_parent(tmp_path):
    a = Context({"instructions": "a"}, (Context({"instructions": "b"}).id,))
    b = Context({"instructions": "b"}, (a.id,))
    c = Context({"instructions": "c"}, ("gone",))
    with Ledger(tmp_path / "l") as ledger:
        ledger.add_contexts(0, [Fate(x, "accepted") for x in (a, b, c)])
    out = shown(lineage_tree(read_contexts(tmp_path / "l"), "run"))
    assert [out.count(f"{x.id}  cycle") for x in (a, b, c)] == [1, 1, 1]


def test_a_long_line_of_descent_is_drawn(tmp_path):
    line = [Context({"instructions": "0"})]
    for i in range(1, 1500):
        line.append(Context({"instructions": str(i)}, (line[-1].id,)))
    with Ledger(tmp_path / "l") as ledger:
        ledger.add_contexts(0, [Fate(c, "accepted") for c in line])
    tree = lineage_tree(read_contexts(tmp_path / "l"), "run")
    depth = 0
    while tree.children:
        (tree,), depth = tree.children, depth + 1
    assert depth == 1500


def test_a_difference_names_the_lines_that_came_and_went(tmp_path):
    old = Context({"instructions": "keep\n  indented\nold", "examples": "same"})
    other = Context({"instructions": "keep", "examples": "more"}, (old.id,))
    new = Context({"instructions": "keep\n  indented\nnew", "examples": "same"}, (old.id, other.id), 1, "merge")
    with Ledger(tmp_path / "l") as ledger:
        ledger.add_contexts(0, [Fate(c, "accepted") for c in (old, other, new)])
    contexts = read_contexts(tmp_path / "l")
    by_id = {c.id: c for c in contexts}
    assert difference(by_id[new.id], by_id).plain == (
        f"{old.id} -> {new.id}: merge\n@ instructions\n@@ -1,3 +1,3 @@\n keep\n   indented\n-old\n+new\n"
        f"{other.id} -> {new.id}: merge\n@ instructions\n@@ -1 +1,3 @@\n keep\n+  indented\n+new\n"
        "@ examples\n@@ -1 +1 @@\n-more\n+same\n"
    )
    assert difference(by_id[old.id], by_id).plain.startswith(f"(nothing) -> {old.id}: seed\n@ instructions\n")
    styles = {str(s.style) for s in difference(by_id[new.id], by_id).spans}
    assert {"green", "red", "cyan"} <= styles


def test_json_holds_texts_fates_and_rewards(folder, monkeypatch, capfd):
    _, out, _ = call(monkeypatch, capfd, "contexts", folder, "--format", "json")
    found = json.loads(out)
    assert [c["id"] for c in found] == [c.id for c in read_contexts(folder)]
    assert {"id", "parents", "birth_cycle", "reason", "in_use", "fates", "rewards", "components"} == set(found[0])
    assert found[0]["fates"][0] == {"cycle": 0, "outcome": "seed", "reason": ""}
    assert found[0]["rewards"]["evaluation"]["n"] > 0


def version_1(path: Path) -> None:
    """A ledger as version 1 wrote it: one column for two reasons."""
    db = sqlite3.connect(path)
    for statement in ledger_schema.MIGRATIONS[0].split(";"):
        db.execute(statement)
    for i, (outcome, reason) in enumerate([("rescored", ""), ("accepted", "add advice"), ("rejected", "token cap: 9")]):
        row = (0, i, f"c{i}", "{}", '["c0"]' if i else "[]", 0, reason, outcome)
        db.execute(
            "INSERT INTO contexts (cycle, idx, id, components, parents, birth_cycle, reason, outcome) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row,
        )  # fmt: skip
    db.execute(f"PRAGMA application_id = {ledger_schema.APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()


def test_an_older_ledger_is_read_untouched_and_migrated_when_written(tmp_path):
    path = tmp_path / "ledger.sqlite"
    version_1(path)
    before = path.read_bytes()
    first = read_contexts(path)
    assert path.read_bytes() == before, "reading changes no file"
    assert [(c.reason, c.fates[0].reason) for c in first] == [("", ""), ("add advice", ""), ("", "token cap: 9")]
    assert [c.fates[0].outcome for c in first] == ["rescored", "accepted", "refused"]
    with Ledger(path) as ledger:
        ledger.add_contexts(1, [Fate(Context({"instructions": "new"}), "rejected", "no improvement")])
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == ledger_schema.SCHEMA_VERSION > 1
    db.close()
    assert read_contexts(path)[:3] == first and len(read_contexts(path)) == 4


def test_migrations_that_shipped_are_never_edited():
    found = [sha256(m.encode()).hexdigest()[:12] for m in ledger_schema.MIGRATIONS]
    assert found == ["96e7ae2cd15e", "16b93dd20b3e"], "add a migration instead"


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_of_the_documentation_works(folder, query):
    with open_ledger(folder) as db:
        assert db.execute(query).fetchall(), "no row: an example that shows nothing"


def test_the_documentation_has_its_queries_and_every_column():
    page = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    assert len(QUERIES) >= 5
    db = sqlite3.connect(":memory:")
    for migration in ledger_schema.MIGRATIONS:
        db.executescript(migration)
    for table in ledger_schema.TABLES:
        section = page.split(f"### `{table}`")[1].split("###")[0]
        for _, column, *_ in db.execute(f"PRAGMA table_info({table})"):
            assert f"`{column}`" in section, f"{table}.{column} is not documented"
