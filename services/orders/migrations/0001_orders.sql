-- Accepted orders only: a rejected one may be placed again, corrected, under its number.
CREATE TABLE orders_order (
    order_id    TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    total_cents BIGINT NOT NULL CHECK (total_cents >= 0),
    status      TEXT NOT NULL CHECK (status IN ('accepted', 'completed', 'cancelled'))
);
