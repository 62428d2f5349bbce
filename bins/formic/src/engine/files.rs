//! What a program is made of where nobody compiles it: the files of the application's folder that its command names, such
//! as `app.py` in `["python3", "app.py"]`. They are a part of the revision, so that an edited one is a change.
//!
//! They are run from where they lie, because a script looks for others beside itself: another copy would be another
//! program. So a restart after an edit runs the edited file; and a way back by hand is refused until the file is as it
//! was, which its copy in the folder of artifacts makes easy.
//!
//! Text counts by its content, programs in one file (`app.jar`, a program somebody has built) by size and time. What is
//! neither, such as a database, is what the program works on, and no part of it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use formic_plan::Service;
use formic_spec::Source;

use super::artifacts::mark;
use crate::app::STATE;

/// What is larger is no text that somebody has written.
const MAX_TEXT: u64 = 1 << 20;
/// How archives (jar, pyz), ELF, WebAssembly and classes of Java begin.
const PROGRAMS: [&[u8]; 4] = [b"PK\x03\x04", b"\x7fELF", b"\0asm", b"\xca\xfe\xba\xbe"];

/// The files of this folder that a service's command and arguments name, by their places in it.
pub(crate) fn named(service: &formic_spec::Service, folder: &Path) -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    let (Source::Command(words), Ok(folder)) = (&service.source, folder.canonicalize()) else { return files };
    let from = service.cwd.as_ref().map_or_else(|| folder.clone(), |cwd| folder.join(cwd));
    for (at, word) in words.iter().chain(&service.args).enumerate() {
        let path = match at {
            // A program without a slash is the system's.
            0 if !word.contains('/') => continue,
            0 => folder.join(word),
            _ => from.join(word),
        };
        let Some(path) = path.canonicalize().ok().filter(|path| path.is_file()) else { continue };
        // What is beside the manifest, and not what the engine keeps there.
        if let Some(place) = path.strip_prefix(&folder).ok().filter(|place| !place.starts_with(STATE)) {
            files.insert(place.display().to_string(), path);
        }
    }
    files
}

/// What tells each of these files from an earlier one; those that are no part of a program are left out. Of text, a copy
/// is kept in this folder.
pub(crate) fn digests(files: &BTreeMap<String, PathBuf>, kept: &Path) -> BTreeMap<String, String> {
    let digest = |(place, path): (&String, &PathBuf)| {
        let (digest, text) = digest(path).ok()??;
        if let (Some(text), Some(name)) = (text, path.file_name()) {
            // Without a copy the way back is longer, and that is told when somebody wants to go it.
            let _ = keep(&kept.join(&digest), name.as_ref(), &text);
        }
        Some((place.clone(), digest))
    };
    files.iter().filter_map(digest).collect()
}

/// Of text also its content.
fn digest(path: &Path) -> io::Result<Option<(String, Option<Vec<u8>>)>> {
    let mut file = std::fs::File::open(path)?;
    let mut content = Vec::new();
    file.by_ref().take(MAX_TEXT + 1).read_to_end(&mut content)?;
    if PROGRAMS.iter().any(|begins| content.starts_with(begins)) {
        return Ok(Some((mark(path), None)));
    }
    let is_text = u64::try_from(content.len()).is_ok_and(|length| length <= MAX_TEXT)
        && !content.contains(&0)
        && std::str::from_utf8(&content).is_ok();
    Ok(is_text.then(|| (blake3::hash(&content).to_hex()[..16].to_owned(), Some(content))))
}

fn keep(folder: &Path, name: &Path, text: &[u8]) -> io::Result<()> {
    let file = folder.join(name);
    if std::fs::read(&file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    formic_supervise::write_file(&file, text).map_err(io::Error::other)
}

/// A file that is not what it was when a state was made.
pub(crate) struct Changed {
    service: String,
    place: String,
    /// How it comes back, if a copy is kept.
    copy: Option<PathBuf>,
}

/// Those of these services whose files are not what they were.
pub(crate) fn changed(services: &[Service], folder: &Path, kept: &Path) -> Vec<Changed> {
    let mut all = Vec::new();
    for service in services {
        let files = service.start.get("files").cloned().unwrap_or_default();
        let files: BTreeMap<String, String> = serde_json::from_value(files).unwrap_or_default();
        for (place, was) in files {
            let is = digest(&folder.join(&place)).ok().flatten().map(|(digest, _)| digest);
            if is.as_deref() != Some(&was) {
                let copy = Path::new(&place).file_name().map(|name| kept.join(&was).join(name));
                let copy = copy.filter(|copy| copy.is_file());
                all.push(Changed { service: service.name.clone(), place, copy });
            }
        }
    }
    all
}

/// What to say of a way back that they are in the way of.
pub(crate) fn refusal(changed: &[Changed], index: u64, folder: &Path) -> String {
    let is: Vec<String> = changed.iter().map(|file| format!("{} of {}", file.place, file.service)).collect();
    let (is_not, it_was, them) = if changed.len() == 1 {
        ("is not what it was", "it was", "it")
    } else {
        ("are not what they were", "they were", "them")
    };
    let mut text = format!(
        "{} {is_not} at index {index}, and such a program runs from where it lies: bring {them} back as {it_was}, then ask again",
        is.join(", ")
    );
    for file in changed {
        if let Some(copy) = &file.copy {
            text.push_str(&format!("\n    cp '{}' '{}'", copy.display(), folder.join(&file.place).display()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use formic_spec::Manifest;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("formic-files-{name}-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("web/.formic")).unwrap();
        folder.canonicalize().unwrap()
    }

    fn service(more: &str) -> formic_spec::Service {
        let text = format!("[app]\nname = 'a'\n[service.s]\n{more}\n");
        Manifest::parse(&text, "formic.toml").unwrap().services.remove(0)
    }

    fn start(files: &BTreeMap<String, String>) -> Service {
        serde_json::from_value(serde_json::json!({
            "name": "s", "revision": formic_spec::Revision::of(&1.into()), "replicas": 1, "depends_on": [],
            "ready_within": "1s", "grace": "1s", "start": { "files": files },
        }))
        .unwrap()
    }

    #[test]
    fn what_a_command_names_in_the_folder_is_a_part_of_it() {
        let folder = folder("named");
        for file in ["app.py", "web/run.sh", "web/conf.ini", "python3"] {
            std::fs::write(folder.join(file), file).unwrap();
        }
        std::fs::create_dir_all(folder.join(STATE)).unwrap();
        std::fs::write(folder.join(STATE).join("x"), "x").unwrap();
        let places = |more: &str| named(&service(more), &folder).into_keys().collect::<Vec<_>>();
        assert_eq!(
            places("command = ['python3', '-u', 'app.py', '.formic/x', '/etc/hosts', '.']"),
            ["app.py"]
        );
        assert_eq!(
            places("command = ['./web/run.sh', 'conf.ini', '../app.py']\ncwd = 'web'"),
            ["app.py", "web/conf.ini", "web/run.sh"]
        );
        assert_eq!(
            places("command = ['sh', '-c', 'exec sleep 1']\nargs = ['web/conf.ini']"),
            ["web/conf.ini"]
        );
        assert!(places("cargo = 'app'").is_empty());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn text_counts_by_its_content_programs_by_their_time_and_data_not_at_all() {
        let folder = folder("digests");
        let kept = folder.join("kept");
        let digest = |name: &str, content: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, content).unwrap();
            digests(&[(name.to_owned(), path)].into(), &kept).remove(name)
        };
        let one = digest("app.py", b"print(1)").unwrap();
        assert_ne!(digest("app.py", b"print(2)").unwrap(), one);
        assert_eq!(digest("app.py", b"print(1)").unwrap(), one, "back is back, whenever it was written");
        assert_eq!(std::fs::read(kept.join(&one).join("app.py")).unwrap(), b"print(1)");
        assert!(digest("app.jar", b"PK\x03\x04...").unwrap().starts_with("7-"));
        assert_eq!(digest("data.db", b"SQLite format 3\0"), None);
        assert_eq!(digest("large.txt", &vec![b'a'; 2 << 20]), None);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_way_back_says_how_the_file_comes_back() {
        let folder = folder("back");
        let kept = folder.join("kept");
        let app = folder.join("app.py");
        std::fs::write(&app, "old").unwrap();
        let services = [start(&digests(&[("app.py".to_owned(), app.clone())].into(), &kept))];
        assert!(changed(&services, &folder, &kept).is_empty());
        std::fs::write(&app, "new").unwrap();
        let text = refusal(&changed(&services, &folder, &kept), 3, &folder);
        assert!(text.contains("app.py of s is not what it was at index 3"), "{text}");
        let copy = text.split('\'').nth(1).unwrap();
        std::fs::copy(copy, &app).unwrap();
        assert!(changed(&services, &folder, &kept).is_empty());
        std::fs::remove_file(&app).unwrap();
        std::fs::remove_dir_all(&kept).unwrap();
        let text = refusal(&changed(&services, &folder, &kept), 3, &folder);
        assert!(!text.contains("cp "), "{text}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
