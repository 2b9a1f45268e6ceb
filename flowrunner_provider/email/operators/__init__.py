"""Operators that send mail and work on mailboxes."""

from __future__ import annotations

from flowrunner_provider.email.operators.batch import EmailBatchOperator
from flowrunner_provider.email.operators.organize import MailOrganizeOperator
from flowrunner_provider.email.operators.read import MailReadOperator
from flowrunner_provider.email.operators.send import EmailSendOperator
from flowrunner_provider.email.operators.validate import EmailValidateOperator

__all__ = [
    "EmailBatchOperator",
    "EmailSendOperator",
    "EmailValidateOperator",
    "MailOrganizeOperator",
    "MailReadOperator",
]
