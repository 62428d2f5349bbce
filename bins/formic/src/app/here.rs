//! Which application a command is about that names none.
//!
//! Where there is one at or above the current folder, only that one counts, whether it runs or not: what else this user
//! runs was not meant. Elsewhere the only one is taken for granted, and only to look at it ([`App::meant`]).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use formic_supervise::{Record, boot_id, is_running};

use super::{App, LOCK, STATE, in_folder};
use crate::engine::manifest;
use crate::exit::{Failure, Outcome};
use crate::output;
use crate::verbs::server::{Place, instances};

/// The file within the state that a keeper holds open and locked, whether or not it has a brain.
const KEEPER_LOCK: &str = "keeper/keeper.lock";
/// So long a command waits for who holds a lock and does not answer: a brain that is followed by another is away for
/// a small part of that, and on a machine that has much else to do for more.
const AWAY: Duration = Duration::from_secs(10);
/// After this the wait is told of.
const SILENT: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody answers.
const LOOK: Duration = Duration::from_millis(50);

/// The folder at or above this one that has an application: the manifest, or the state of an engine that ran there. What
/// belongs to another user says nothing: anybody can make such files above where others work.
pub(super) fn own(from: &Path) -> Option<&Path> {
    let me = rustix::process::geteuid().as_raw();
    let mine = |path: PathBuf| std::fs::symlink_metadata(path).is_ok_and(|there| there.uid() == me);
    from.ancestors().find(|folder| mine(folder.join(manifest::NAME)) || mine(folder.join(STATE).join(LOCK)))
}

/// The application of this folder; while somebody holds one of its locks, it is waited for a moment.
pub(super) async fn waited(folder: &Path) -> Option<App> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        if let Some(app) = in_folder(folder).await {
            return Some(app);
        }
        if begun.elapsed() >= AWAY || !held().iter().any(|held| held == folder) {
            return None;
        }
        if begun.elapsed() >= SILENT && !told {
            told = true;
            output::talk(&format!("{} does not answer yet: waiting for it, at most {AWAY:?}", name(folder)));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The application of this folder, or why there is none.
pub(super) async fn of(folder: &Path) -> Outcome<App> {
    match waited(folder).await {
        Some(app) => Ok(app),
        None => Err(absent(folder)),
    }
}

/// All applications that this user runs.
pub(super) async fn running() -> Vec<App> {
    let folders = held();
    let running = futures::future::join_all(folders.iter().map(|folder| waited(folder))).await;
    running.into_iter().flatten().collect()
}

/// Folders one of whose locks a process of this user holds open. Sockets would not do: the kernel lists them without
/// their users, and one in a long path under a name that means nothing to others.
fn held() -> Vec<PathBuf> {
    let me = rustix::process::geteuid().as_raw();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| {
        let number = entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        number && entry.metadata().is_ok_and(|meta| meta.uid() == me)
    });
    let locks = [Path::new(STATE).join(LOCK), Path::new(STATE).join(KEEPER_LOCK)];
    let locked = |path: PathBuf| {
        let lock = locks.iter().find(|lock| path.ends_with(lock))?;
        path.ancestors().nth(lock.components().count()).map(Path::to_path_buf)
    };
    let mut folders: Vec<PathBuf> = processes
        .filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok())
        .flatten()
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .filter_map(locked)
        .collect();
    folders.sort();
    folders.dedup();
    folders
}

fn absent(folder: &Path) -> Failure {
    let name = name(folder);
    if held().iter().any(|held| held == folder) {
        return Failure::unreachable(format!("{name} does not answer, and somebody manages it"))
            .help("it may be starting; its own output, or .formic/server.log, says more");
    }
    match left(&folder.join(STATE).join("run")) {
        0 => Failure::unreachable(format!("{name} is not running here, in {}", folder.display()))
            .help("`formic up` or `formic server` there starts it; --app <name or folder> means another"),
        left => {
            let go = if left == 1 { "runs" } else { "run" };
            Failure::unreachable(format!(
                "{name} is not running here ({} {go} without a server; `formic server` takes over what runs)",
                instances(left)
            ))
            .help(format!("`formic server {}`, or --app <name or folder> for another", folder.display()))
        }
    }
}

/// What it is called, by whoever can still say so.
fn name(folder: &Path) -> String {
    let file = folder.join(manifest::NAME);
    let parsed = manifest::read(&file).ok().and_then(|text| formic_spec::Manifest::parse(&text, "").ok());
    let kept = || Place::of(folder).map(|place| place.app);
    let folder_name = || folder.file_name().map(|name| name.to_string_lossy().into_owned());
    parsed.map(|manifest| manifest.app.name).or_else(kept).or_else(folder_name).unwrap_or_default()
}

/// How many instances go on by the records of an engine that is not there.
fn left(run: &Path) -> u32 {
    let boot = boot_id().unwrap_or_default();
    let goes_on = |path: PathBuf| {
        // It has ended, and its number may be another's.
        if path.with_extension("ended").exists() {
            return None;
        }
        let record: Record = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let main = record.identity?;
        (main.boot_id == boot && is_running(main.pid)).then_some(())
    };
    let records = std::fs::read_dir(run).into_iter().flatten().flatten().map(|entry| entry.path());
    let records = records.filter(|path| path.extension().is_some_and(|end| end == "json"));
    u32::try_from(records.filter_map(goes_on).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn only_what_has_an_application_counts_and_the_nearest_first() {
        let top = std::env::temp_dir().join(format!("formic-here-{}", std::process::id()));
        let (outer, inner) = (top.join("outer"), top.join("outer/a/inner"));
        std::fs::create_dir_all(inner.join("src")).unwrap();
        assert_eq!(own(&inner), None);
        std::fs::write(outer.join("formic.toml"), "").unwrap();
        assert_eq!(own(&inner), Some(&*outer));
        // A folder of that name alone may be anything.
        std::fs::create_dir(inner.join(".formic")).unwrap();
        assert_eq!(own(&inner), Some(&*outer));
        std::fs::write(inner.join(".formic/lock"), "").unwrap();
        assert_eq!(own(&inner.join("src")), Some(&*inner));
        std::fs::remove_dir_all(&top).unwrap();
    }
}
