CREATE TABLE notifications_sent (
    letter_key TEXT PRIMARY KEY,
    order_id   TEXT NOT NULL,
    recipient  TEXT NOT NULL,
    text       TEXT NOT NULL
);
