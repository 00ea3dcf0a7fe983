CREATE TABLE analytics_sale (
    order_id    TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    cents       BIGINT NOT NULL,
    sold_on     TEXT NOT NULL
);
