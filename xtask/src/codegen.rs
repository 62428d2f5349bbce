//! `cargo xtask codegen [--check]`: the generated code of our own protos, written anew or compared.
//!
//! Our own protos are fixed, so what they generate is committed: nobody who builds `formic` runs a generator, and a change of
//! the wire shows in the diff.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::workspace::{Workspace, capture};

/// Crates that hold generated code: the control plane, and the standard services of every server. Each has
/// its protos in `proto` and what they make in `src/gen`.
const CRATES: [&str; 2] = ["crates/formic-api", "crates/formic-server"];
/// Where generated code finds what it runs on: the crates that hold it know that one already.
const RUNTIME: &str = "::formic_rpc::rt";

/// Files by their path from the folder, with what they hold. Not text: descriptor sets are beside the code.
type Folder = BTreeMap<String, Vec<u8>>;

/// `cargo xtask codegen [--check]`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<bool> {
    match args {
        [] => write(workspace).map(|()| true),
        [flag] if flag == "--check" => check(workspace),
        other => bail!("codegen takes --check or nothing, not {other:?}"),
    }
}

/// Whether the committed code is what the generator makes of the protos; prints what differs.
pub(crate) fn check(workspace: &Workspace) -> Result<bool> {
    let (mut good, mut files) = (true, 0);
    for holder in CRATES {
        let fresh = generate(workspace, holder)?;
        let committed = read(&generated(workspace, holder))?;
        for difference in differences(&committed, &fresh) {
            println!("{holder}/src/gen/{difference}; run `cargo xtask codegen` and commit what it writes");
            good = false;
        }
        files += fresh.len();
    }
    if good {
        println!("codegen: {files} files are what their protos say");
    }
    Ok(good)
}

fn write(workspace: &Workspace) -> Result<()> {
    for holder in CRATES {
        let fresh = generate(workspace, holder)?;
        let folder = generated(workspace, holder);
        for stale in read(&folder)?.keys().filter(|path| !fresh.contains_key(*path)) {
            let path = folder.join(stale);
            std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        for (path, bytes) in &fresh {
            let path = folder.join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
            }
            std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        }
        println!("codegen: wrote {} files to {holder}/src/gen", fresh.len());
    }
    Ok(())
}

fn generated(workspace: &Workspace, holder: &str) -> PathBuf {
    workspace.root.join(holder).join("src/gen")
}

/// What the generator makes of the protos of a crate now, formatted.
fn generate(workspace: &Workspace, holder: &str) -> Result<Folder> {
    let include = workspace.root.join(holder).join("proto");
    let out = Scratch::new()?;
    let mut config = formic_build::Config::new().include(&include).out_dir(&out.0).runtime(RUNTIME);
    let protos = read(&include)?;
    for proto in protos.keys().filter(|path| path.ends_with(".proto")) {
        config = config.file(proto);
    }
    config.compile().with_context(|| format!("compile the files of {holder}/proto"))?;

    let made = read(&out.0)?;
    let mut rustfmt = Command::new("rustfmt");
    // The style of the workspace, which rustfmt would not find from a temporary folder.
    rustfmt.arg("--config-path").arg(&workspace.root).args(["--edition", "2024"]);
    rustfmt.args(made.keys().filter(|path| path.ends_with(".rs"))).current_dir(&out.0);
    capture(&mut rustfmt)?;
    read(&out.0)
}

/// Every file below `folder`; none when it is not there.
fn read(folder: &Path) -> Result<Folder> {
    let mut files = Folder::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let here = folder.join(&relative);
        if !here.exists() {
            continue;
        }
        for entry in std::fs::read_dir(&here).with_context(|| format!("list {}", here.display()))? {
            let entry = entry.with_context(|| format!("list {}", here.display()))?;
            let path = relative.join(entry.file_name());
            if entry.path().is_dir() {
                pending.push(path);
            } else {
                let bytes =
                    std::fs::read(entry.path()).with_context(|| format!("read {}", path.display()))?;
                files.insert(path.to_string_lossy().replace('\\', "/"), bytes);
            }
        }
    }
    Ok(files)
}

/// `path:line: what`, one for each file that is not the same on both sides.
fn differences(committed: &Folder, fresh: &Folder) -> Vec<String> {
    let mut found = Vec::new();
    for (path, new) in fresh {
        match committed.get(path) {
            None => found.push(format!("{path}:1: the file is missing")),
            Some(old) if old != new => {
                let same = old.iter().zip(new).take_while(|(old, new)| old == new);
                let line = 1 + same.filter(|(byte, _)| **byte == b'\n').count();
                found.push(format!("{path}:{line}: not what the protos say"));
            }
            Some(_) => {}
        }
    }
    let stale = committed.keys().filter(|path| !fresh.contains_key(*path));
    found.extend(stale.map(|path| format!("{path}:1: no proto makes this file")));
    found
}

/// A folder of our own that is removed at the end, whatever happens.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        // Tests of one process make several.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("formic-codegen-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing is lost with it; a temporary folder that stays is the system's to clear.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> Folder {
        files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_difference_names_the_file_and_the_line() {
        let committed = folder(&[("a.rs", "one\ntwo\n"), ("b.rs", "same\n"), ("old.rs", "")]);
        let fresh = folder(&[("a.rs", "one\n2\n"), ("b.rs", "same\n"), ("new.rs", "")]);
        let found = differences(&committed, &fresh);
        assert_eq!(
            found,
            [
                "a.rs:2: not what the protos say",
                "new.rs:1: the file is missing",
                "old.rs:1: no proto makes this file"
            ]
        );
        assert!(differences(&fresh, &fresh).is_empty());
    }

    #[test]
    fn every_folder_of_generated_code_is_looked_after() -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(root.join("crates"))? {
            let path = entry?.path();
            if path.join("src/gen").is_dir() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                found.push(format!("crates/{name}"));
            }
        }
        found.sort_unstable();
        assert_eq!(found, CRATES);
        Ok(())
    }

    #[test]
    fn a_folder_is_read_in_depth() -> Result<()> {
        let scratch = Scratch::new()?;
        std::fs::create_dir_all(scratch.0.join("x/y"))?;
        std::fs::write(scratch.0.join("x/y/a.rs"), "a")?;
        std::fs::write(scratch.0.join("b.bin"), "b")?;
        assert_eq!(read(&scratch.0)?, folder(&[("b.bin", "b"), ("x/y/a.rs", "a")]));
        assert!(read(&scratch.0.join("none"))?.is_empty());
        Ok(())
    }
}
