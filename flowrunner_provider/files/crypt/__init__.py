"""Files encrypted, decrypted and signed: ``files.crypt``."""
