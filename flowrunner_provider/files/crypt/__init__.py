"""Encrypting, decrypting, signing and verifying files: ``files.crypt``."""
