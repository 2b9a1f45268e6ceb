-- flowrunner:no-transaction
CREATE INDEX CONCURRENTLY orders_by_customer ON ${schema:identifier}.orders (customer);
