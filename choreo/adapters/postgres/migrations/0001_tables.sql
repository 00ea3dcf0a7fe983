-- What steps leave, in a schema of its own beside the services' tables.

CREATE TABLE choreo.name (
    id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    text text COLLATE "C" NOT NULL UNIQUE          -- of a handler or a mark
);
CREATE TABLE choreo.alias (
    text text COLLATE "C" PRIMARY KEY,             -- a former name
    id   integer NOT NULL
);

-- A partition of a group, and who has it. Every transaction of a delivery locks the rows it
-- stands on FOR SHARE.
CREATE TABLE choreo.owner (
    id        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    grp       text COLLATE "C" NOT NULL,
    topic     text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    epoch     bigint NOT NULL DEFAULT 0,           -- 0: rows came in on it, nobody has owned it
    holder    integer NOT NULL DEFAULT 0,          -- its process, 0 once it let go
    UNIQUE (grp, topic, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);
CREATE SEQUENCE choreo.holder AS integer MAXVALUE 2147483647 CYCLE;

CREATE TABLE choreo.inbox (
    handler  integer NOT NULL,
    subject  bytea NOT NULL,                       -- 16 bytes
    status   smallint NOT NULL,                    -- 1 parked, 2 done, 3 dead, 4 void
    hash     bytea NOT NULL,
    owner    integer NOT NULL,                     -- where it came in
    "offset" bigint NOT NULL,
    run      integer,
    attempt  integer,
    due      double precision,
    chain    text COLLATE "C",                     -- of what is parked or dead; '' holds nobody
    record   bytea,
    error    text COLLATE "C",
    PRIMARY KEY (handler, subject)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_vacuum_scale_factor = 0.01,
        autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX inbox_due ON choreo.inbox (due) WHERE status = 1 AND due IS NOT NULL;
CREATE INDEX inbox_chain ON choreo.inbox (handler, chain, "offset") WHERE chain IS NOT NULL;

CREATE TABLE choreo.gate (
    kind    text COLLATE "C" NOT NULL,
    handler integer NOT NULL,
    scope   text COLLATE "C" NOT NULL,
    seq     bigint NOT NULL,
    closed  boolean NOT NULL,
    members bytea NOT NULL,
    at      double precision NOT NULL,             -- when it was written
    PRIMARY KEY (kind, handler, scope)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000);

CREATE TABLE choreo.timer (
    id       bytea PRIMARY KEY,
    due      double precision NOT NULL,
    handler  integer NOT NULL,
    payload  bytea NOT NULL,
    owner    integer NOT NULL,
    "offset" bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);
CREATE INDEX timer_due ON choreo.timer (due);

-- Rows live for milliseconds: what is dead has to go soon, or reading it costs more and more.
CREATE TABLE choreo.outbox (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner   integer NOT NULL,                      -- 0: of nobody
    topic   text COLLATE "C" NOT NULL,
    key     bytea,
    headers text NOT NULL,                         -- JSON
    value   bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_scale_factor = 0.2);

CREATE TABLE choreo.state (
    type    text COLLATE "C" NOT NULL,
    key     text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    value   bytea,
    PRIMARY KEY (type, key)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000);

CREATE TABLE choreo.memo (
    subject bytea NOT NULL,
    handler integer NOT NULL,
    name    text COLLATE "C" NOT NULL,             -- of the call
    state   smallint NOT NULL,                     -- 0 closed, 1 intent, 2 result
    result  bytea NOT NULL,
    at      double precision NOT NULL,             -- when it was written
    PRIMARY KEY (subject, handler, name)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000);
CREATE INDEX memo_open ON choreo.memo (handler) WHERE state = 1;

-- How far a group has read, and up to where rows may be gone.
CREATE TABLE choreo.position (
    owner    integer PRIMARY KEY,
    "offset" bigint NOT NULL,                      -- to read next
    ended    bigint NOT NULL,                      -- where the partition ended
    ended_at double precision NOT NULL,            -- at that time
    floor    bigint NOT NULL DEFAULT -1,
    floor_at double precision NOT NULL DEFAULT 0
);
CREATE TABLE choreo.mark (
    owner    integer NOT NULL,
    at       double precision NOT NULL,
    ended    bigint NOT NULL,                      -- the partition ended here by then
    PRIMARY KEY (owner, at)
);
CREATE TABLE choreo.sweep (
    grp text COLLATE "C" PRIMARY KEY,
    at  double precision NOT NULL                  -- when it last began to forget
);

-- Which of a service's own migrations have run.
CREATE TABLE choreo.migration (
    service text NOT NULL,
    file    text NOT NULL,
    sha1    text NOT NULL,
    PRIMARY KEY (service, file)
);
