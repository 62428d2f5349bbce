//! The executables of desired states, kept for as long as a state may come back.
//!
//! A build writes to the place of the one before, so what a revision runs would change under it: a restart
//! after a crash would start another program than the revision says, and a rollback could bring nothing
//! back. Therefore an executable is run by a second name that no build writes to. A hard link: it takes no
//! room, and linkers and Cargo put a new file in the place of an old one. Where no link can be made, or a
//! file was written in place after all, its mark tells.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use formic_plan::Service;
use formic_reconcile::Start;
use serde_json::Value;

/// Tells one build of a file from another without reading it: its size and time. The digest of its content
/// is what deployments to other machines need; here a rebuilt file is a new one.
pub(crate) fn mark(path: &Path) -> String {
    std::fs::metadata(path)
        .ok()
        .map(|meta| {
            let modified = meta
                .modified()
                .ok()
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
                .unwrap_or_default();
            format!("{}-{}", meta.len(), modified.as_nanos())
        })
        .unwrap_or_default()
}

/// The second name of an executable in this folder, or its own where no other can be given.
pub(crate) fn keep(folder: &Path, program: &Path) -> PathBuf {
    let (mark, Some(name)) = (mark(program), program.file_name()) else { return program.to_path_buf() };
    let kept = folder.join(&mark).join(name);
    if self::mark(&kept) == mark {
        return kept;
    }
    let link = || {
        std::fs::create_dir_all(folder.join(&mark))?;
        std::fs::hard_link(program, &kept)
    };
    if link().is_ok() { kept } else { program.to_path_buf() }
}

/// The services whose executables are no longer what they were.
pub(crate) fn lost(services: &[Service]) -> Vec<String> {
    let is_lost = |service: &&Service| {
        let start: Result<Start, _> = serde_json::from_value(service.start.clone());
        start.is_ok_and(|start| !start.artifact.is_empty() && mark(&start.program) != start.artifact)
    };
    services.iter().filter(is_lost).map(|service| service.name.clone()).collect()
}

/// Removes what none of these marks names: what earlier runs kept. Failing that only takes room.
pub(crate) fn prune(folder: &Path, services: &[Service]) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let artifacts = services.iter().filter_map(|service| service.start.get("artifact").and_then(text));
    let files = services.iter().filter_map(|service| service.start.get("files")?.as_object());
    let files = files.flat_map(|files| files.values().filter_map(text));
    let used: HashSet<String> = artifacts.chain(files).collect();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !used.contains(&*entry.file_name().to_string_lossy()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_build_in_the_place_of_an_earlier_one_leaves_the_earlier_one() {
        let dir = std::env::temp_dir().join(format!("formic-artifacts-{}", std::process::id()));
        let kept_in = dir.join("artifacts");
        std::fs::create_dir_all(&dir).unwrap();
        let program = dir.join("order");
        std::fs::write(&program, "one").unwrap();
        let first = keep(&kept_in, &program);
        assert!(first.starts_with(&kept_in) && first == keep(&kept_in, &program));
        // As Cargo does it.
        std::fs::remove_file(&program).unwrap();
        std::fs::write(&program, "other").unwrap();
        let second = keep(&kept_in, &program);
        assert_eq!(std::fs::read_to_string(&first).unwrap(), "one");
        assert_eq!(std::fs::read_to_string(&second).unwrap(), "other");
        let service = |program: &Path| Service {
            name: "order".into(),
            revision: formic_spec::Revision::of(&serde_json::json!(1)),
            replicas: 1,
            process: None,
            depends_on: Vec::new(),
            conditions: Default::default(),
            dependents: Default::default(),
            update: Default::default(),
            job: None,
            cron: None,
            sets: None,
            completed: false,
            ready_within: formic_spec::HumanDuration::from_secs(1),
            grace: formic_spec::HumanDuration::from_secs(1),
            start: serde_json::json!({
                "program": program, "args": [], "env": {}, "cwd": "/", "port": null,
                "health": { "ready": "none", "path": "", "interval": "1s", "timeout": "1s", "deadline": "1s" },
                "restart": formic_spec::Restart::default(), "system": false, "artifact": mark(program),
            }),
        };
        let services = [service(&first), service(&second)];
        assert_eq!(lost(&services), Vec::<String>::new());
        prune(&kept_in, &services[1..]);
        assert_eq!(lost(&services), ["order"]);
        assert!(second.is_file());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
