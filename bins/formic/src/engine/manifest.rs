//! Finding and reading the manifest.

use std::path::{Path, PathBuf};

use formic_spec::{Faults, Manifest};

use crate::exit::{Failure, Outcome};

/// The name of a manifest.
pub(crate) const NAME: &str = "formic.toml";
/// A manifest is written by people; what is larger is something else.
const MAX: u64 = 1 << 20;

/// The manifest that a path means: the file itself, or the one in the folder.
pub(crate) fn locate(path: &Path) -> Outcome<PathBuf> {
    let file = if path.is_dir() { path.join(NAME) } else { path.to_path_buf() };
    let there = file.canonicalize();
    there.ok().filter(|file| file.is_file()).ok_or_else(|| {
        Failure::user(format!("there is no manifest at {}", file.display()))
            .help("name a folder with a formic.toml, or make a service with `formic new <name>`")
    })
}

/// Its text.
pub(crate) fn read(file: &Path) -> Outcome<String> {
    let unreadable =
        |error: std::io::Error| Failure::user(format!("cannot read {}", file.display())).because(error);
    if std::fs::metadata(file).map_err(unreadable)?.len() > MAX {
        return Err(Failure::user(format!("{} is larger than 1 MiB, which no manifest is", file.display())));
    }
    String::from_utf8(std::fs::read(file).map_err(unreadable)?).map_err(|error| {
        let whole = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = whole.split(|byte| *byte == b'\n').count();
        let text = format!("{} is not UTF-8: line {line} has bytes that are no text", file.display());
        Failure::user(text)
            .help("save it as UTF-8; `iconv -f LATIN1 -t UTF-8` makes that of an older encoding")
    })
}

/// Its path as people would write it from here.
pub(crate) fn shown(file: &Path) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.as_deref().and_then(|here| file.strip_prefix(here).ok());
    relative.unwrap_or(file).display().to_string()
}

/// All faults at once, each with its place.
pub(crate) fn faulty(faults: &Faults) -> Failure {
    let count = faults.faults.len();
    let noun = if count == 1 { "fault" } else { "faults" };
    Failure::user(format!("the manifest has {count} {noun}\n\n{faults}"))
        .beside(serde_json::to_value(faults).unwrap_or_default())
}

/// Reads and checks the manifest of a path.
pub(crate) fn load(path: &Path) -> Outcome<(PathBuf, Manifest)> {
    let file = locate(path)?;
    let manifest = Manifest::parse(&read(&file)?, &shown(&file)).map_err(|faults| faulty(&faults))?;
    Ok((file, manifest))
}
