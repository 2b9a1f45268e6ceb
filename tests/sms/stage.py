"""What the SMS tests play with: a fake vendor, and the connection to it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from flowrunner_provider.runtime.rate_limits import pacer_for

ACCOUNT = {"twilio": "AC" + "0" * 32, "vonage": "abcd1234", "azure_acs": "+18005550100"}
SENDER = "+18005550100"
ME = "+14155550123"


@dataclass
class Vendor:
    """A fake, seen through one account."""

    name: str
    fake: Any
    server: Any
    account: str

    @property
    def taken(self):
        return self.fake.taken(self.account)

    @property
    def faults(self):
        return self.fake.faults[self.account]

    def connect(self, conn_id="SMS_DEFAULT", **options: Any) -> None:
        os.environ[f"AIRFLOW_CONN_{conn_id}"] = connection(
            self.name, self.server.url, self.account, self.fake, **options
        )
        pacer_for.cache_clear()


def connection(name: str, url: str, account: str, fake: Any, **options: Any) -> str:
    """The JSON of a connection; the fake is closed over plain HTTP."""
    values: dict[str, Any] = {"conn_type": name, "host": url}
    if name == "azure_acs":
        values["password"] = fake.key
    else:
        values |= {"login": account, "password": fake.token if name == "twilio" else fake.secret}
    ours = {"sender": account if name == "azure_acs" else SENDER, "settle": 0.0, "trust_env": False, **options}
    return json.dumps({**values, "extra": {"flowrunner": ours}})
