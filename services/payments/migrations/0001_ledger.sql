-- One row a movement of money; its key is the one that the provider was given.
CREATE TABLE payments_ledger (
    entry_key TEXT PRIMARY KEY,
    order_id  TEXT NOT NULL,
    kind      TEXT NOT NULL CHECK (kind IN ('capture', 'refund')),
    charge    TEXT NOT NULL,
    cents     BIGINT NOT NULL CHECK (cents >= 0),
    UNIQUE (charge, kind)
);

CREATE INDEX payments_ledger_order ON payments_ledger (order_id);
