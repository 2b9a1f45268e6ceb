"""The smallest valid arguments of every action: a new action is a line here, and inherits all contracts.

Everything that would be reached is unreachable: connections are not defined, paths do not exist.
"""

from typing import Any

ARGUMENTS: dict[str, dict[str, Any]] = {
    "auth.check_connection": {"conn_ids": ["nowhere"]},
    "auth.check_expiry": {"targets": [{"kind": "jwt", "conn_id": "nowhere"}]},
    "data.read_json": {"path": "/nowhere/in.json", "save_to": "/nowhere/out.jsonl"},
    "data.write_csv": {"source": "/nowhere/in.jsonl", "path": "/nowhere/out.csv"},
    "data.write_parquet": {"source": "/nowhere/in.jsonl", "path": "/nowhere/out.parquet"},
    "email.send": {"to": "team@example.com", "subject": "Report", "text": "Hello"},
    "email.organize": {"operation": "archive", "search": {"subject": "Invoice"}},
    "email.read": {"search": {"subject": "Invoice"}},
    "email.received": {"folder": "INBOX"},
    "email.wait": {"search": {"subject": "Invoice"}},
    "files.archive": {"source": "/nowhere/*.csv", "dest": "/nowhere/all.zip"},
    "files.extract": {"archive": "sftp://partner@/out/all.zip", "dest": "/nowhere/in/"},
    "files.checksum": {"path": "/nowhere/a.csv"},
    "email.send_batch": {"recipients": [{"email": "a@example.com"}], "subject": "Hello", "text": "Hello"},
    "email.validate": {"source": "/nowhere/a.csv", "valid": "/nowhere/b.jsonl", "invalid": "/nowhere/c.jsonl"},
    "files.copy": {"source": "sftp://partner@/out/a.csv", "dest": "/nowhere/a.csv"},
    "files.delete": {"path": "/nowhere/*.csv"},
    "files.list": {"path": "sftp://partner@/out"},
    "files.mkdir": {"path": "sftp://partner@/in"},
    "files.read": {"path": "/nowhere/a.txt"},
    "files.sync": {"source": "sftp://partner@/out", "dest": "/nowhere/copy"},
    "files.wait": {"path": "sftp://partner@/out/*.csv"},
    "files.write": {"path": "sftp://partner@/in/a.txt", "content": "done"},
    "http.async_job": {
        "submit": {"endpoint": "/jobs"},
        "poll": {"endpoint": "/jobs/{job_id}", "success": "done", "failed": "failed"},
    },
    "http.batch": {
        "items": ["a", "b"],
        "request": {"endpoint": "/orders/{item}"},
        "save_to": "/nowhere/orders.jsonl",
    },
    "http.download": {"endpoint": "/export", "save_to": "/nowhere/export.bin"},
    "http.graphql": {"query": "{ viewer { id } }"},
    "http.paginate": {"endpoint": "/orders", "strategy": "cursor", "save_to": "/nowhere/orders.jsonl"},
    "http.request": {"endpoint": "/orders"},
    "http.upload": {"source": "/nowhere/a.csv", "endpoint": "/files"},
    "sms.notify": {"to": "+14155550123"},
    "sms.send": {"to": "+14155550123", "body": "The load has failed"},
    "sms.wait_delivery": {"message_ids": ["SM00000000000000000000000000000000"]},
    "webhook.notify": {"endpoint": "/hooks/airflow"},
    "webhook.send": {"endpoint": "/hooks/orders", "payload": {"order": 1}},
    "http.wait": {"endpoint": "/exports/today"},
    "sql.export": {"conn_id": "warehouse", "dest": "/nowhere/orders.csv", "table": "orders"},
    "sql.load": {"conn_id": "warehouse", "source": "/nowhere/in.csv", "table": "orders"},
    "sql.transaction": {"conn_id": "warehouse", "statements": [{"sql": "DELETE FROM orders"}]},
    "sql.modify": {"conn_id": "warehouse", "operation": "delete", "table": "orders", "where": {"id": 1}},
}
