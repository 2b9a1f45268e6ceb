CREATE OR REPLACE VIEW ${schema:identifier}.orders_of_today AS
SELECT * FROM ${schema:identifier}.orders WHERE ordered_at >= current_date;
