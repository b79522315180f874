"""Tables of the ledger, as a list of migrations: entry i brings a ledger from version i to i + 1.

A migration that has shipped is never edited; a change of the tables is a new entry. No statement holds a semicolon.
"""

from __future__ import annotations

APPLICATION_ID = 0x46535431  # "FST1": tells a ledger from any other SQLite file

_VERSION_1 = """
CREATE TABLE rollouts (
    id INTEGER PRIMARY KEY,
    phase TEXT NOT NULL,
    step INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    cycle INTEGER,
    weights_step INTEGER NOT NULL,
    context_id TEXT NOT NULL,
    problem_id TEXT NOT NULL,
    seed INTEGER NOT NULL,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    logprob_sum REAL,
    reward REAL NOT NULL,
    feedback TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    error TEXT,
    UNIQUE (phase, step, idx)
);
CREATE INDEX rollouts_by_problem ON rollouts (problem_id);
CREATE INDEX rollouts_by_context ON rollouts (context_id);
CREATE TABLE contexts (
    key INTEGER PRIMARY KEY,
    cycle INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    id TEXT NOT NULL,
    components TEXT NOT NULL,
    parents TEXT NOT NULL,
    birth_cycle INTEGER NOT NULL,
    reason TEXT NOT NULL,
    outcome TEXT NOT NULL,
    UNIQUE (cycle, idx)
);
CREATE INDEX contexts_by_id ON contexts (id);
CREATE TABLE reflections (
    key INTEGER PRIMARY KEY,
    cycle INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    prompt_hash TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    UNIQUE (cycle, idx)
);
CREATE TABLE slow_steps (
    key INTEGER PRIMARY KEY,
    step INTEGER NOT NULL UNIQUE,
    metrics TEXT NOT NULL
);
"""

# Version 1 had one column for two reasons: why a context was proposed, and, where it was rejected, why that. It told
# no guard's refusal from a rejection after rollouts.
_VERSION_2 = """
ALTER TABLE contexts ADD COLUMN outcome_reason TEXT NOT NULL DEFAULT '';
UPDATE contexts SET outcome_reason = reason, reason = '' WHERE outcome = 'rejected';
UPDATE contexts SET outcome = 'refused' WHERE outcome = 'rejected'
    AND outcome_reason NOT LIKE 'no improvement%' AND outcome_reason NOT LIKE 'no budget left%';
ALTER TABLE reflections ADD COLUMN reflector TEXT NOT NULL DEFAULT '';
ALTER TABLE reflections ADD COLUMN context_id TEXT NOT NULL DEFAULT '';
ALTER TABLE reflections ADD COLUMN proposed_id TEXT;
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1, _VERSION_2)
SCHEMA_VERSION = len(MIGRATIONS)

TABLES: dict[str, str] = {"rollouts": "id", "contexts": "key", "reflections": "key", "slow_steps": "key"}
"""Each table and its run-unique integer key, which grows by one a row."""
