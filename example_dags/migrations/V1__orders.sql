CREATE TABLE ${schema:identifier}.orders (
    id bigint PRIMARY KEY,
    customer text NOT NULL,
    ordered_at timestamptz NOT NULL
);
