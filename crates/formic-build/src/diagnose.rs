//! The compiler's errors in the author's terms: the file on disk, the line, and what to do about it.

use std::fs;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use protox::Compiler;

use crate::fault::{Fault, Place};
use crate::suggest::nearest;

/// How far below a root a misplaced file is looked for.
const SEARCH_DEPTH: usize = 8;

/// The roots that names are looked up in.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    roots: &'a [PathBuf],
}

impl<'a> Sources<'a> {
    pub(crate) fn new(roots: &'a [PathBuf]) -> Self {
        Self { roots }
    }

    /// The file on disk behind a name.
    pub(crate) fn resolve(&self, name: &str) -> Option<PathBuf> {
        self.roots.iter().map(|root| root.join(name)).find(|path| path.is_file())
    }

    /// A file that was asked for and is not there.
    pub(crate) fn missing(&self, name: &str) -> Fault {
        self.advise(Fault::new(format!("`{name}` not found")), name)
    }

    /// Where a file that is not there was looked for, and where it may be instead.
    fn advise(&self, fault: Fault, name: &str) -> Fault {
        let roots: Vec<_> = self.roots.iter().map(|root| format!("`{}`", root.display())).collect();
        let mut fault = fault.hint(format!("looked below {}", roots.join(", ")));
        for root in self.roots.iter().filter(|root| !root.is_dir()) {
            fault = fault.hint(format!("there is no directory `{}`", root.display()));
        }
        let found = self.protos();
        let base = name.rsplit('/').next().unwrap_or(name);
        let same = found.iter().find(|known| known.rsplit('/').next() == Some(base));
        match same.map(String::as_str).or_else(|| nearest(name, found.iter().map(String::as_str))) {
            Some(known) => fault.hint(format!("did you mean `{known}`?")),
            None => fault.hint(
                "if it is elsewhere, add its root in build.rs: `Config::new().include(\"../other/proto\")`",
            ),
        }
    }

    /// The names of all protos below the roots.
    fn protos(&self) -> Vec<String> {
        let mut names = Vec::new();
        for root in self.roots {
            let mut pending = vec![(root.clone(), 0)];
            while let Some((dir, depth)) = pending.pop() {
                for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                    let path = entry.path();
                    if path.is_dir() {
                        let built = path.ends_with("target") || path.ends_with(".git");
                        if depth < SEARCH_DEPTH && !built {
                            pending.push((path, depth + 1));
                        }
                    } else if path.extension().is_some_and(|extension| extension == "proto")
                        && let Ok(name) = path.strip_prefix(root)
                    {
                        names.push(name.to_string_lossy().replace('\\', "/"));
                    }
                }
            }
        }
        names.sort();
        names
    }

    /// Everything that one run of the compiler over `opened` complained of.
    pub(crate) fn faults(&self, error: &protox::Error, opened: &Path, compiler: &Compiler) -> Vec<Fault> {
        let path = match error.file() {
            Some(name) => self.resolve(name).unwrap_or_else(|| PathBuf::from(name)),
            None => opened.to_path_buf(),
        };
        let source = fs::read_to_string(&path).unwrap_or_default();
        let file = Faulty { sources: self, path, source, compiler };
        let first = file.fault(error);
        let rest = error.related().into_iter().flatten().map(|related| file.fault(related));
        std::iter::once(first).chain(rest).collect()
    }
}

/// A file with errors in it.
struct Faulty<'a> {
    sources: &'a Sources<'a>,
    path: PathBuf,
    source: String,
    compiler: &'a Compiler,
}

impl Faulty<'_> {
    fn fault(&self, diagnostic: &dyn Diagnostic) -> Fault {
        let mut labels: Vec<_> = diagnostic.labels().into_iter().flatten().collect();
        // Of two places the later one is at fault and the earlier one explains it.
        let rank = |text: Option<&str>| match text.unwrap_or_default() {
            text if text.contains("again") => 0,
            text if text.contains("found") => 1,
            _ => 2,
        };
        labels.sort_by_key(|label| rank(label.label()));
        let mut places = labels.iter().map(|label| {
            (self.place(label.offset(), label.len()), label.label().unwrap_or_default().to_owned())
        });
        let main = places.next().map(|(place, _)| place);
        let width_of = |place: &Option<Place>| -> Option<String> {
            let place = place.as_ref()?;
            Some(place.text.chars().skip(place.column - 1).take(place.width).collect())
        };
        let marked = width_of(&main).unwrap_or_default();

        let message = diagnostic.to_string();
        let place = main.or_else(|| Some(Place::file(self.path.clone())));
        let mut fault = if let Some(name) = quoted(&message, "name '", "' is not defined") {
            self.undefined(name)
        } else if let Some(name) = quoted(&message, "import '", "' not found") {
            self.sources.advise(Fault::new(format!("import `{name}` not found")), name)
        } else if marked == "edition" && message.starts_with("expected") {
            Fault::new("editions are not supported").hint("write `syntax = \"proto3\";` instead")
        } else {
            Fault::new(message)
        };
        for (place, label) in places {
            fault = fault.hint(format!("{label}: {place}"));
        }
        if let Some(help) = diagnostic.help() {
            fault = fault.hint(help.to_string());
        }
        fault.at(place)
    }

    fn place(&self, offset: usize, length: usize) -> Place {
        Place::locate(self.path.clone(), &self.source, offset, length)
    }

    /// A name that nothing bears; perhaps another was meant.
    fn undefined(&self, name: &str) -> Fault {
        let fault = Fault::new(format!("`{name}` is not defined"));
        let pool = self.compiler.descriptor_pool();
        let mut known: Vec<String> = declared(&self.source);
        known.extend(pool.all_messages().map(|message| message.full_name().to_owned()));
        known.extend(pool.all_enums().map(|values| values.full_name().to_owned()));
        if let Some(near) = nearest(name, known.iter().map(String::as_str)) {
            return fault.hint(format!("did you mean `{near}`?"));
        }
        // A name without its package is the commonest slip after a typing error.
        let tail = format!(".{}", name.rsplit('.').next().unwrap_or(name));
        match known.iter().find(|known| known.ends_with(&tail)) {
            Some(full) => fault.hint(format!("there is `{full}`; name it with its package")),
            None => fault.hint("define it, or import the file that does"),
        }
    }
}

/// What stands between two parts of a message that begins with the first.
fn quoted<'a>(message: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = message.strip_prefix(before)?;
    rest.find(after).map(|end| &rest[..end])
}

/// The messages and enums that a file declares, read loosely since the file is faulty.
fn declared(source: &str) -> Vec<String> {
    let words: Vec<&str> =
        source.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).collect();
    let declares = |pair: &&[&str]| matches!(pair[0], "message" | "enum");
    words.windows(2).filter(declares).map(|pair| pair[1].to_owned()).collect()
}
