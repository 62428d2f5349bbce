//! Files of secrets that an engine has left which was killed, and whose application's folder is gone: no other engine
//! would ever look there, and in memory they stay until the machine is started anew.
//!
//! Each folder of secrets says whose it is. One is removed only if the application's folder that it names is gone, no
//! process has been told of what is in it or may have been, and nobody has touched it lately; and what is said is
//! believed only of who sees the same files and the same processes as this engine, as in a container both are others.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{DIR_ENV, remove};

/// The file in a folder of secrets that says whose it is; no instance is called so.
pub(super) const OWNER: &str = ".of";

/// What was touched so lately may be in the making.
const UNTOUCHED: Duration = Duration::from_secs(60);

/// Whose a folder of secrets is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    /// The folder of the application's state.
    folder: PathBuf,
    /// Who sees what is meant by that.
    files: PathBuf,
    /// Who sees the processes that have been told.
    processes: PathBuf,
}

impl Owner {
    fn new(folder: &Path) -> io::Result<Self> {
        let namespace = |name: &str| fs::read_link(format!("/proc/self/ns/{name}"));
        Ok(Self { folder: folder.to_owned(), files: namespace("mnt")?, processes: namespace("pid")? })
    }

    fn read(root: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(root.join(OWNER)).ok()?).ok()
    }

    fn is_gone(&self) -> bool {
        let gone = |folder: &Path| {
            fs::symlink_metadata(folder).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        gone(&self.folder) && Self::new(&self.folder).is_ok_and(|here| here == *self)
    }
}

/// Says in a folder of secrets whose it is. A later engine of the same application says it anew.
pub(super) fn note(root: &Path, folder: &Path) -> io::Result<()> {
    let text = serde_json::to_vec(&Owner::new(folder)?)?;
    let path = root.join(OWNER);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&text)
}

/// Removes what is left of others in a folder of many, by the beginning of the names that such folders have.
pub(super) fn sweep(base: &Path, prefix: &str) {
    sweep_untouched(base, prefix, UNTOUCHED, may_be_needed);
}

fn sweep_untouched(base: &Path, prefix: &str, untouched: Duration, may_be_needed: impl Fn(&Path) -> bool) {
    let user = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_one = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix))
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
        // Of the entry itself, should it be a link.
        let Some(found) = is_one.then(|| entry.metadata().ok()).flatten() else { continue };
        let age = found.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        if !found.is_dir() || found.uid() != user || age.is_none_or(|age| age < untouched) {
            continue;
        }
        let root = entry.path();
        match Owner::read(&root) {
            Some(owner) if owner.is_gone() && !may_be_needed(&root) => {
                tracing::info!(folder = %owner.folder.display(), "the secrets of an application that is gone are removed");
                remove(&root);
            }
            Some(_) => {}
            // Of a release that said nothing in it. The system refuses where anything is in it.
            None => drop(fs::remove_dir(&root)),
        }
    }
}

/// Whether any process may have been told where its secrets are in there. The folder of a moved application is gone from
/// where it was while its instances run, so that what cannot be found out counts as told.
fn may_be_needed(root: &Path) -> bool {
    let Ok(mut processes) = fs::read_dir("/proc") else { return true };
    processes.any(|entry| {
        let Ok(entry) = entry else { return true };
        let is_process = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        is_process && may_need(&entry.path(), root)
    })
}

/// The same of one process, by its folder in `/proc`.
fn may_need(process: &Path, root: &Path) -> bool {
    let told = format!("{DIR_ENV}={}/", root.display()).into_bytes();
    let has_program = || fs::read_link(process.join("exe")).map_or_else(|error| !is_over(&error), |_| true);
    let own = rustix::process::geteuid().as_raw();
    let may_be_ours = || match fs::read(process.join("status")) {
        Ok(status) => own == 0 || has_user(&status, own),
        Err(error) => !is_over(&error),
    };
    is_told(fs::read(process.join("environ")), &told, has_program, may_be_ours)
}

/// Decides by what can be read of a process's environment.
fn is_told(
    environ: io::Result<Vec<u8>>,
    told: &[u8],
    has_program: impl FnOnce() -> bool,
    may_be_ours: impl FnOnce() -> bool,
) -> bool {
    match environ {
        Ok(environ) => match variables(&environ) {
            Some(mut variables) => variables.any(|variable| variable.starts_with(told)),
            // The kernel's own processes have none, nor have those that have ended. Another one has written over it,
            // or is about to become a program.
            None => has_program(),
        },
        Err(error) if is_over(&error) => false,
        // Ordinary users may not look at others' processes, and start none as others.
        Err(_) => may_be_ours(),
    }
}

/// The variables, if it is an environment as the kernel makes it, which nobody has written over: texts with an equals
/// sign, each with its end.
fn variables(environ: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let variables = environ.strip_suffix(b"\0")?.split(|byte| *byte == 0);
    variables.clone().all(|variable| variable.contains(&b'=')).then_some(variables)
}

/// Whether a process is not there any more, or has no such thing.
fn is_over(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// Whether a process runs as this user in any way, by what `/proc` says of it.
fn has_user(status: &[u8], user: u32) -> bool {
    let status = String::from_utf8_lossy(status);
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    users.is_none_or(|users| users.split_whitespace().any(|found| found.parse::<u32>() == Ok(user)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::process::{Child, Command};

    use super::*;

    /// A folder that is removed and a process that is ended, however a test ends.
    struct Scene {
        top: PathBuf,
        told: Option<Child>,
    }

    impl Scene {
        fn end(&mut self) {
            if let Some(mut told) = self.told.take() {
                let _ = told.kill();
                let _ = told.wait();
            }
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            self.end();
            let _ = fs::remove_dir_all(&self.top);
        }
    }

    #[test]
    fn what_cannot_be_found_out_counts_as_told() {
        let told = |environ: &[u8], has_program: bool| {
            is_told(Ok(environ.to_vec()), b"DIR=/shm/a/", || has_program, || unreachable!("it was read"))
        };
        assert!(told(b"A=1\0DIR=/shm/a/order-1\0", true));
        assert!(!told(b"A=1\0DIR=/shm/ab/order-1\0B=\0", true));
        // Nothing in it: the kernel's own, or one that has yet to become its program.
        assert!(!told(b"", false) && told(b"", true));
        // Written over: with nothing, with a name and what was left, and cut off.
        for over in [&b"\0\0\0\0"[..], b"a: serves\0A=1\0", b"A=1\0\0\0B=2\0", b"A=1\0B=2"] {
            assert!(told(over, true), "{:?}", String::from_utf8_lossy(over));
        }
        let unread = |errno: Errno, may_be_ours: bool| {
            is_told(Err(errno.into()), b"DIR=/shm/a/", || unreachable!("it was not read"), || may_be_ours)
        };
        assert!(!unread(Errno::NOENT, true) && !unread(Errno::SRCH, true), "it has ended");
        assert!(unread(Errno::ACCESS, true) && unread(Errno::IO, true) && !unread(Errno::ACCESS, false));
    }

    #[test]
    fn whose_a_process_is_is_read_from_all_its_users() {
        let status = b"Name:\ta\xff\nUid:\t1000\t0\t0\t0\nGid:\t5\t5\t5\t5\n";
        assert!(has_user(status, 1000) && has_user(status, 0) && !has_user(status, 5));
        assert!(has_user(b"Name:\ta\n", 1), "it does not say");
    }

    #[test]
    fn only_what_nobody_can_want_any_more_is_removed() {
        let top = std::env::temp_dir().join(format!("formic-secrets-left-{}", std::process::id()));
        let mut scene = Scene { top: top.clone(), told: None };
        let (base, there) = (top.join("shm"), top.join("there"));
        fs::create_dir_all(&there).unwrap();
        let root = |name: &str, of: Option<&Path>| {
            let root = base.join(name);
            fs::create_dir_all(root.join("order-1")).unwrap();
            fs::write(root.join("order-1/db"), "x").unwrap();
            if let Some(of) = of {
                note(&root, of).unwrap();
            }
            root
        };
        let gone = top.join("gone");
        let left = root("formic-7-0a", Some(&gone));
        let used = root("formic-7-0b", Some(&gone));
        let others = [
            root("formic-7-0c", Some(&there)),
            root("formic-7-0d", None),
            root("formic-77-0e", Some(&gone)),
            root("formic-7-note", Some(&gone)),
        ];
        // Of one that sees other processes, and one that leads elsewhere.
        let far = root("formic-7-0f", None);
        let owner = Owner { processes: "pid:[1]".into(), ..Owner::new(&gone).unwrap() };
        fs::write(far.join(OWNER), serde_json::to_vec(&owner).unwrap()).unwrap();
        let target = root("target", Some(&gone));
        std::os::unix::fs::symlink(&target, base.join("formic-7-10")).unwrap();
        fs::create_dir(base.join("formic-7-11")).unwrap();
        let told = Command::new("sleep").arg("600").env(DIR_ENV, used.join("order-1")).spawn().unwrap();
        let process = Path::new("/proc").join(told.id().to_string());
        scene.told = Some(told);
        // For a moment after it has begun its environment is empty.
        let has_begun = || fs::read(process.join("environ")).is_ok_and(|environ| !environ.is_empty());
        let began = std::time::Instant::now();
        while !has_begun() {
            assert!(began.elapsed() < Duration::from_secs(30), "the process does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Of that process alone: on a machine of many users there may be one that nobody can look into.
        let may_need = |root: &Path| may_need(&process, root);

        sweep(&base, "formic-7-");
        assert!(left.exists() && base.join("formic-7-11").exists(), "it was touched just now");
        assert!(may_be_needed(&used), "it is found among all processes");
        sweep_untouched(&base, "formic-7-", Duration::ZERO, may_need);
        let is_used = used.exists();
        scene.end();
        assert!(!left.exists() && !base.join("formic-7-11").exists() && is_used);
        for stays in others.iter().chain([&far, &target]) {
            assert!(stays.join("order-1/db").exists(), "{}", stays.display());
        }
        sweep_untouched(&base, "formic-7-", Duration::ZERO, may_need);
        assert!(!used.exists(), "nobody is told of it any more");
    }
}
