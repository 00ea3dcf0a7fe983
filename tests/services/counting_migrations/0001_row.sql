-- In the order in which a key's events were handled, by either handler.
CREATE TABLE counting_row (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    handler TEXT NOT NULL,
    k       TEXT NOT NULL,
    n       BIGINT NOT NULL
);
