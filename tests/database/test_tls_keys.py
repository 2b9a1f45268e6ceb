"""A client key that needs a password is an error, and no question at the worker's terminal."""

import os
import pty
import subprocess
import sys

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

PROGRAM = """
import sys
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.config import MysqlConfig
from flowrunner_provider.database.dialects.mysql_wire import tls_context
try:
    tls_context(MysqlConfig(ssl_mode="VERIFY_IDENTITY", ssl_cert=sys.argv[1], ssl_key=sys.argv[2]))
except ConfigError as error:
    print(error.field)
"""


def test_an_encrypted_key_of_mysql_asks_nobody(tls, tmp_path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"canary-4711")
    )
    (tmp_path / "key.pem").write_bytes(key)
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-c", PROGRAM, str(tls.cert_file), str(tmp_path / "key.pem")]

    def with_a_terminal() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))  # becomes the controlling one

    done = subprocess.run(
        command, stdin=theirs, capture_output=True, timeout=60, check=False, preexec_fn=with_a_terminal, text=True
    )
    os.close(terminal)
    os.close(theirs)
    assert done.stdout == "ssl\n", done.stderr
