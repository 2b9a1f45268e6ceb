DROP TABLE ${schema:identifier}.orders;
