-- What the tracker made of the log. All of it can be made anew from there, so tables of another
-- version are dropped.

CREATE TABLE choreo.view_state (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    version  integer NOT NULL,
    position bigint NOT NULL DEFAULT 0,
    last     text COLLATE "C" NOT NULL DEFAULT ''
);
CREATE TABLE choreo.view_mark (
    topic     text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    "offset"  bigint NOT NULL,
    PRIMARY KEY (topic, partition)
);
-- The shape of a flow: its name, and the words (types, services, steps) that its facts have.
CREATE TABLE choreo.view_shape (
    id    bigint PRIMARY KEY,                      -- a hash of the two
    name  text COLLATE "C" NOT NULL,
    words text[] COLLATE "C" NOT NULL
);
-- Facts as they came, those that a batch has of a flow together. One that was read twice may
-- stand twice; its place (topic, partition, offset) tells.
CREATE TABLE choreo.view_fact (
    flow  text COLLATE "C" NOT NULL,
    facts text COLLATE "C" NOT NULL                -- JSON: a list of facts, each without its flow
);
CREATE INDEX ON choreo.view_fact (flow);
CREATE TABLE choreo.view_flow (
    flow          text COLLATE "C" PRIMARY KEY,
    root          text COLLATE "C",
    name          text COLLATE "C",
    status        text COLLATE "C",                -- NULL: a tracker is about to write it
    key           text COLLATE "C" NOT NULL DEFAULT '',
    finish        text COLLATE "C",                -- without a root: of whom is not known yet
    started       double precision NOT NULL DEFAULT 0,
    updated       double precision NOT NULL DEFAULT 0,
    ended         double precision,
    deadline      double precision,
    stuck_at      double precision,
    shape         bigint,
    plain         smallint NOT NULL DEFAULT 0,
    retries       integer NOT NULL DEFAULT 0,
    compensations integer NOT NULL DEFAULT 0,
    dead          integer NOT NULL DEFAULT 0,
    voids         integer NOT NULL DEFAULT 0,
    steps         integer,                         -- NULL: to be counted
    error         text COLLATE "C",
    stale         boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70);
CREATE INDEX ON choreo.view_flow (status, started);
CREATE INDEX ON choreo.view_flow (shape, status, started);
CREATE INDEX ON choreo.view_flow (started);
CREATE INDEX ON choreo.view_flow (key, started) WHERE key <> '';
CREATE INDEX ON choreo.view_flow (started) WHERE error IS NOT NULL;
CREATE INDEX ON choreo.view_flow (flow) WHERE stale;
CREATE TABLE choreo.view_manifest (
    service  text COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL,
    text     text NOT NULL
);
CREATE TABLE choreo.view_ending (
    root   text COLLATE "C" NOT NULL,
    finish text COLLATE "C" NOT NULL,
    PRIMARY KEY (root, finish)
);
