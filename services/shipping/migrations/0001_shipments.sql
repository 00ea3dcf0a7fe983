CREATE TABLE shipping_shipment (
    order_id    TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    parcel      TEXT NOT NULL UNIQUE
);
