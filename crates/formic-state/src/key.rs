//! The key file: 32 random bytes that only the engine's user can read.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::error::OpenError;
use crate::folder;

const PREFIX: &str = "formic-key-1 ";
const BYTES: usize = 32;
/// XChaCha's nonces are long enough to be drawn at random for ever.
const NONCE: usize = 24;

/// What is encrypted with a new key, to know it again.
const KNOWN: &[u8] = b"formic";

/// A key. Shows nothing of itself, and is wiped from memory in the end.
pub(crate) struct Key(Zeroizing<[u8; BYTES]>);

impl Key {
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self(bytes))
    }

    /// The key in a file; nothing if there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, OpenError> {
        let unreadable = |source| OpenError::KeyUnreadable { path: path.to_owned(), source };
        let wrong = |reason| OpenError::KeyWrong { path: path.to_owned(), reason };
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        if !meta.is_file() {
            return Err(wrong("it is no plain file"));
        }
        let mode = meta.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(OpenError::KeyExposed { path: path.to_owned(), mode });
        }
        let text = Zeroizing::new(fs::read(path).map_err(unreadable)?);
        let text = std::str::from_utf8(&text).map_err(|_| wrong("it is no text"))?;
        let digits = text.strip_prefix(PREFIX).ok_or_else(|| wrong("it does not begin as a key does"))?;
        let digits = digits.strip_suffix('\n').unwrap_or(digits).as_bytes();
        if digits.len() != 2 * BYTES {
            return Err(wrong("it has another length"));
        }
        let mut bytes = Zeroizing::new([0; BYTES]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |of: u8| char::from(of).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
                return Err(wrong("it has other signs than a key"));
            };
            *byte = high << 4 | low;
        }
        Ok(Some(Self(bytes)))
    }

    /// Writes it to a file that is not there yet. On the disk when this returns.
    pub(crate) fn write(&self, path: &Path) -> Result<(), OpenError> {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 * BYTES + 1));
        text.push_str(PREFIX);
        for byte in self.0.iter() {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        text.push('\n');
        let new = path.with_extension("new");
        let io = |source| OpenError::Io { what: "write", path: path.to_owned(), source };
        // One that a crash left behind was never used.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .map_err(io)?;
        fs::rename(&new, path).map_err(io)?;
        folder::sync(path)
    }

    /// What lets a key be known again.
    pub(crate) fn check_value(&self, identity: &str) -> Option<Vec<u8>> {
        self.seal(identity.as_bytes(), KNOWN)
    }

    pub(crate) fn opens(&self, identity: &str, check_value: &[u8]) -> bool {
        self.open(identity.as_bytes(), check_value).is_some_and(|text| *text == KNOWN)
    }

    /// Nonce and ciphertext. `context` is what it belongs to: moved elsewhere it does not open. Nothing if
    /// there is no randomness.
    pub(crate) fn seal(&self, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = vec![0; NONCE];
        getrandom::fill(&mut sealed).ok()?;
        let nonce = XNonce::try_from(sealed.as_slice()).ok()?;
        let text = self.cipher().encrypt(&nonce, Payload { msg: plain, aad: context }).ok()?;
        sealed.extend(text);
        Some(sealed)
    }

    /// Nothing if it was sealed with another key, for something else, or was changed.
    pub(crate) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_at_checked(NONCE)?;
        let nonce = XNonce::try_from(nonce).ok()?;
        self.cipher().decrypt(&nonce, Payload { msg: text, aad: context }).ok().map(Zeroizing::new)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn what_is_sealed_opens_in_its_own_context_only() {
        let key = Key::random().unwrap();
        let sealed = key.seal(b"a 1", b"hunter2").unwrap();
        assert_eq!(**key.open(b"a 1", &sealed).unwrap(), *b"hunter2");
        assert!(key.open(b"a 2", &sealed).is_none());
        assert!(Key::random().unwrap().open(b"a 1", &sealed).is_none());
        for bit in 0..sealed.len() * 8 {
            let mut other = sealed.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(b"a 1", &other).is_none(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(key.open(b"a 1", &sealed[..length]).is_none());
        }
        assert_ne!(key.seal(b"a 1", b"hunter2").unwrap(), sealed, "a nonce is used once");
        assert_eq!(format!("{key:?}"), "Key(…)");
    }
}
