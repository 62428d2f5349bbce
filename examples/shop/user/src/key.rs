//! The secret key that signs tokens, in a file that only its owner can read.
//!
//! It is made at the first start and never changed: a lost or replaced key ends every session. So the file appears under its
//! name only when it is complete and on disk, and an existing one is never written over, even when two first starts race.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use shop_token::Signer;

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be made.
    #[error("write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read the file.
    #[error(
        "trust {}: its mode is {mode:03o}, so others can read it; if nobody did, run `chmod 600` on it, \
         else delete it and have everybody log in again",
        path.display()
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not 32 bytes in hexadecimal.
    #[error("parse {}: it is not 64 hexadecimal digits; restore it, or delete it and have everybody log in again", path.display())]
    Garbled {
        /// Which file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("draw random bytes")]
    Random(#[source] io::Error),
}

/// The key in this file, which is made if it is not there. Blocks.
pub(crate) fn load_or_make(path: &Path) -> Result<Signer, KeyError> {
    match load(path) {
        Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            make(path)?;
            load(path)
        }
        other => other,
    }
}

fn load(path: &Path) -> Result<Signer, KeyError> {
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let text = io::read_to_string(file).map_err(failed)?;
    let seed = parse(text.trim()).ok_or_else(|| KeyError::Garbled { path: path.to_owned() })?;
    Ok(Signer::from_seed(&seed))
}

fn make(path: &Path) -> Result<(), KeyError> {
    let mut seed = [0; 32];
    crate::password::fill_random(&mut seed).map_err(KeyError::Random)?;
    let mut name = [0; 8];
    crate::password::fill_random(&mut name).map_err(KeyError::Random)?;
    let draft = path.with_extension(format!("key.{}.new", hex(&name)));
    let made = write(&draft, path, &format!("{}\n", hex(&seed)));
    let _ = fs::remove_file(&draft);
    made.map_err(|source| KeyError::Write { path: path.to_owned(), source })
}

fn write(draft: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // Not a rename, which would replace the key of another first start that was quicker; the quicker one's key is loaded.
    match fs::hard_link(draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        // The folder's entry must outlive a loss of power before the first token is signed.
        Ok(()) => File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all(),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut seed = [0; 32];
    for (at, byte) in seed.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::store::Folder;

    #[test]
    fn the_key_is_made_once_and_private() {
        let folder = Folder::new();
        let path = folder.path().join("token.key");
        let first = load_or_make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_or_make(&path).unwrap().public_key(), first.public_key());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the draft is gone");
    }

    #[test]
    fn racing_first_starts_agree_on_one_key() {
        let folder = Folder::new();
        let path = folder.path().join("token.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> =
                (0..8).map(|_| scope.spawn(|| load_or_make(&path).unwrap().public_key())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn an_exposed_or_garbled_key_is_refused_and_kept() {
        let folder = Folder::new();
        let path = folder.path().join("token.key");
        load_or_make(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_or_make(&path), Err(KeyError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "half a k").unwrap();
        assert!(matches!(load_or_make(&path), Err(KeyError::Garbled { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "half a k");
    }
}
