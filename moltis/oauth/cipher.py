"""Encrypting the token store with a key that the system's keyring keeps (the extra `moltis[keyring]`).

What cannot be decrypted for want of the right key is told apart from what is damaged, for the first is as good as new
once the key is back.
"""

from __future__ import annotations

import hashlib
from typing import Final

from moltis.oauth.folder import StoreProblem

SERVICE: Final = "moltis"
ACCOUNT: Final = "token-store"
"""What the key is called in the keyring."""

_SEAL: Final = b"moltis-sealed 1 "
_ID_DIGITS: Final = 16


class WrongKey(Exception):
    """It was encrypted with another key."""


class Damaged(Exception):
    """It was encrypted with this key, and is not what was encrypted."""


class Cipher:
    """Authenticated encryption with one key. Calls are independent of each other: any thread may make them."""

    def __init__(self, key: str) -> None:
        """Use a key of `cryptography.fernet`: 32 bytes in URL-safe base64.

        Raises:
            ValueError: it is not such a key.
        """
        from cryptography.fernet import Fernet

        self._fernet = Fernet(key)
        self._id = hashlib.sha256(key.encode()).hexdigest()[:_ID_DIGITS].encode()

    def __repr__(self) -> str:
        return "Cipher(***)"

    def seal(self, plain: bytes) -> bytes:
        """Encrypt."""
        return _SEAL + self._id + b"\n" + self._fernet.encrypt(plain)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt what `is_sealed`.

        Raises:
            WrongKey: another key is needed.
            Damaged: no key will do.
        """
        from cryptography.fernet import InvalidToken

        id, newline, token = sealed.removeprefix(_SEAL).partition(b"\n")
        if not newline or len(id) != _ID_DIGITS:
            raise Damaged
        if id != self._id:
            raise WrongKey
        try:
            return self._fernet.decrypt(token)
        except InvalidToken:
            raise Damaged from None


def is_sealed(data: bytes) -> bool:
    """Whether a file's bytes are encrypted rather than plain JSON."""
    return data.startswith(_SEAL)


def keyring_cipher() -> Cipher:
    """Return the cipher of the key in the system's keyring, made and stored there at the first time.

    Blocks, for as long as a person needs who is asked to unlock the keyring: call it in a thread.

    Raises:
        StoreProblem: the extra is not installed, there is no keyring, it stays locked, or what it has is not our key.
    """
    try:
        import keyring
        from cryptography.fernet import Fernet
        from keyring.errors import KeyringLocked, NoKeyringError
    except ImportError as error:
        raise StoreProblem("encrypting the token store needs an extra: pip install 'moltis[keyring]'") from error
    try:
        key = keyring.get_password(SERVICE, ACCOUNT)
        if key is None:
            keyring.set_password(SERVICE, ACCOUNT, Fernet.generate_key().decode())
            # What is there now counts, should another process have done the same at this moment.
            key = keyring.get_password(SERVICE, ACCOUNT)
    except NoKeyringError as error:
        raise StoreProblem(
            "there is no keyring on this system to keep the key of the token store: install and start one (GNOME"
            " Keyring, KWallet, macOS Keychain), and pip install 'moltis[keyring]'; or do not encrypt the store"
        ) from error
    except KeyringLocked as error:
        raise StoreProblem("the system's keyring is locked: unlock it to use the encrypted token store") from error
    except Exception as error:
        # A keyring is whatever the system has; its errors may say anything.
        raise StoreProblem(f"the system's keyring does not work ({type(error).__name__})") from error
    if key is None:
        raise StoreProblem("the system's keyring forgets what is put into it (is it the null keyring?)")
    try:
        return Cipher(key)
    except ValueError as error:
        raise StoreProblem(f"the keyring's entry {SERVICE!r} / {ACCOUNT!r} is not a key of ours: remove it") from error
