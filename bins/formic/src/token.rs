//! Tokens: who may use a server's API over TCP. A file of them, one a line, each after the name that the history gives to
//! what is done with it.
//!
//! The server reads its file again when it has changed, so a line that is taken out is a token that is revoked. A file that
//! others could read is none: neither the server nor a caller takes it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::exit::{Failure, Outcome};

/// 128 bits as hexadecimal digits: what is shorter could be guessed.
const MIN: usize = 32;
/// What is longer is no token.
const MAX: usize = 512;
/// A person's own word repeated is long and no secret.
const MIN_DIFFERENT: usize = 8;
/// More than anybody hands out.
const MAX_FILE: u64 = 64 << 10;
/// Bytes of a token that is made here.
const MADE: usize = 32;

/// A token with its name.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) name: String,
    pub(crate) secret: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads a file of tokens that nobody else can read.
pub(crate) fn read(path: &Path) -> Outcome<Vec<Token>> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| {
        Failure::user(format!("cannot read the token file {shown}"))
            .because(error)
            .help("`formic server token FILE` makes one")
    })?;
    let unreadable = |error: std::io::Error| Failure::user(format!("cannot read {shown}")).because(error);
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Failure::user(format!("{shown} is no file")));
    }
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me && meta.uid() != 0 {
        return Err(Failure::user(format!(
            "the token file {shown} belongs to user {}, not to this one",
            meta.uid()
        ))
        .help("who owns it can change it: let it be this user's own"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(Failure::user(format!(
            "the token file {shown} can be read by others: its mode is {:04o}",
            meta.mode() & 0o7777
        ))
        .help(format!("`chmod 600 {shown}`, and new tokens if others had the time to read it")));
    }
    let mut text = String::new();
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(Failure::user(format!("{shown} has more than 64 KiB, which no token file has")));
    }
    parse(&text).map_err(|(line, what)| Failure::user(format!("{shown}:{line}: {what}")).help(HELP))
}

const HELP: &str = "a line is a name and a token, of at least 32 characters (128 bits) that nobody can guess; \
`formic server token FILE` adds one";

/// `name token` or `token` a line; the faults name lines and never what is in them.
fn parse(text: &str) -> Result<Vec<Token>, (usize, String)> {
    let mut tokens: Vec<Token> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fault = |what: &str| (at + 1, what.to_owned());
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, secret) = match words[..] {
            [secret] => ("default", secret),
            [name, secret] => (name, secret),
            _ => return Err(fault("more than a name and a token")),
        };
        if !is_name(name) {
            return Err(fault("the name may have letters, digits, `-`, `_` and `.`, at most 64"));
        }
        if tokens.iter().any(|token| token.name == name) {
            return Err(fault("the name is used twice"));
        }
        check(secret).map_err(fault)?;
        tokens.push(Token { name: name.into(), secret: secret.into() });
    }
    if tokens.is_empty() { Err((1, "it has no token".into())) } else { Ok(tokens) }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 64 && name.chars().all(plain)
}

fn check(secret: &str) -> Result<(), &'static str> {
    if secret.len() < MIN {
        return Err("the token is too short to be a secret");
    }
    if secret.len() > MAX || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the token is too long, or has characters that cannot be sent");
    }
    let different: std::collections::BTreeSet<u8> = secret.bytes().collect();
    if different.len() < MIN_DIFFERENT {
        return Err("the token has so few different characters that it can be guessed");
    }
    Ok(())
}

/// Adds a new token to a file, which is made if there is none; gives it back.
pub(crate) fn add(path: &Path, name: &str) -> Outcome<Token> {
    if !is_name(name) {
        return Err(Failure::user(format!("{name:?} is no name for a token"))
            .help("letters, digits, `-`, `_` and `.`, at most 64"));
    }
    let failed =
        |error: std::io::Error| Failure::user(format!("cannot write {}", path.display())).because(error);
    if path.exists() {
        let empty = path.metadata().map_err(failed)?.len() == 0;
        if !empty && read(path)?.iter().any(|token| token.name == name) {
            return Err(Failure::user(format!("{} has a token {name:?} already", path.display()))
                .help("take its line out first to replace it, or choose another name with --name"));
        }
    }
    let mut bytes = [0; MADE];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::user("the system gives no random bytes").because(error))?;
    let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file =
        std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(format!("{name} {secret}\n").as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(Token { name: name.into(), secret })
}

/// The tokens of a server, as its file has them now.
#[derive(Debug)]
pub(crate) struct Tokens {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    /// As of which state of the file; none until it was looked at.
    stamp: Option<Stamp>,
    /// Digests, which are compared in constant time.
    known: Vec<(String, blake3::Hash)>,
}

/// Tells one state of a file from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64, u32);

// === impl Tokens ===

impl Tokens {
    /// Of a file, read now.
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        drop(read(path)?);
        Ok(Self { path: path.into(), loaded: Mutex::default() })
    }

    /// Whose token this is. A file that is gone or has become readable for others lets nobody in.
    pub(crate) fn name_of(&self, secret: &[u8]) -> Option<String> {
        let stamp = std::fs::metadata(&self.path)
            .map(|meta| Stamp(meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec(), meta.mode()));
        let stamp = stamp.unwrap_or_default();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamp != Some(stamp) {
            let tokens = read(&self.path).unwrap_or_else(|failure| {
                tracing::error!(%failure, "the tokens cannot be read; nobody who needs one is let in");
                Vec::new()
            });
            let known = tokens.into_iter().map(|token| (token.name, blake3::hash(token.secret.as_bytes())));
            *loaded = Loaded { stamp: Some(stamp), known: known.collect() };
        }
        let presented = blake3::hash(secret);
        // All of them, whichever it is: the time tells nothing. Two digests compare in constant time.
        let mut found = None;
        for (name, known) in &loaded.known {
            if *known == presented {
                found = Some(name.clone());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const GOOD: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn lines_are_names_and_tokens_and_faults_do_not_tell_them() {
        let text = format!("# who may\n\nci {GOOD}\n");
        assert_eq!(parse(&text).unwrap(), [Token { name: "ci".into(), secret: GOOD.into() }]);
        assert_eq!(parse(GOOD).unwrap()[0].name, "default");
        for (text, word) in [
            ("ci short-secret".to_owned(), "too short"),
            (format!("ci {}", "ab".repeat(20)), "guessed"),
            (format!("a b {GOOD}"), "more than"),
            (format!("a/b {GOOD}"), "the name may"),
            (format!("a {GOOD}\na {GOOD}x"), "twice"),
            (String::new(), "no token"),
        ] {
            let (_, what) = parse(&text).unwrap_err();
            assert!(what.contains(word) && !what.contains("secret-"), "{what}");
        }
    }

    #[test]
    fn a_file_is_read_anew_and_only_if_it_is_private() {
        let folder = std::env::temp_dir().join(format!("formic-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("tokens");
        let ci = add(&path, "ci").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(add(&path, "ci").unwrap_err().to_string().contains("already"));
        let tokens = Tokens::open(&path).unwrap();
        let name = |token: &Token| tokens.name_of(token.secret.as_bytes());
        assert_eq!(
            (name(&ci), tokens.name_of(b""), tokens.name_of(GOOD.as_bytes())),
            (Some("ci".into()), None, None)
        );
        let laptop = add(&path, "laptop").unwrap();
        assert_eq!((name(&ci), name(&laptop)), (Some("ci".into()), Some("laptop".into())));
        std::fs::write(&path, format!("laptop {}\n", laptop.secret)).unwrap();
        assert_eq!((name(&ci), name(&laptop)), (None, Some("laptop".into())));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("0640"));
        assert_eq!(name(&laptop), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
