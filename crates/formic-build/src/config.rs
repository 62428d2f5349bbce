//! What a build script says: which files, from which roots, to where.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::fault::Error;
use crate::{messages, output, schema};

/// Where generated code finds its runtime, for crates that depend on the facade alone.
const RUNTIME: &str = "::formic::__rt";

/// The conventional root of a crate's protos.
const ROOT: &str = "proto";

/// Compiles proto files into `OUT_DIR`; on a fault prints it and exits with status 1.
///
/// Paths are from the crate's root. A file below `proto/` is imported by its path from there, any
/// other by its bare name; for other roots see [`Config::include`].
pub fn compile(files: &[&str]) {
    files.iter().fold(Config::new(), |config, file| config.path(file)).compile_or_exit();
}

/// Options for code generation.
#[derive(Clone, Debug)]
#[must_use = "a configuration does nothing until it is compiled"]
pub struct Config {
    includes: Vec<PathBuf>,
    files: Vec<String>,
    out_dir: Option<PathBuf>,
    runtime: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { includes: Vec::new(), files: Vec::new(), out_dir: None, runtime: RUNTIME.into() }
    }
}

impl Config {
    /// No files yet, and `proto` as the root if no other is given.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a root below which files and imports are looked up; the first root that has a file wins.
    pub fn include(mut self, dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        if !self.includes.contains(&dir) {
            self.includes.push(dir);
        }
        self
    }

    /// Adds a file by its name below a root, as an import would name it: `shop/user/v1/user.proto`.
    pub fn file(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        if !self.files.contains(&name) {
            self.files.push(name);
        }
        self
    }

    /// Adds a file by its path and the root that follows from it.
    fn path(self, path: &str) -> Self {
        let path = Path::new(path);
        let (root, name) = match path.strip_prefix(ROOT) {
            Ok(name) => (Path::new(ROOT), name),
            Err(_) => {
                let name = path.file_name().map_or(path, Path::new);
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                (parent.unwrap_or(Path::new(".")), name)
            }
        };
        let name = name.to_string_lossy().replace('\\', "/");
        self.include(root).file(name)
    }

    /// Writes the code there instead of `OUT_DIR`, for code that is committed. No directives for Cargo are printed then.
    pub fn out_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(dir.into());
        self
    }

    /// The module that generated code takes everything from, as an absolute path (`::formic::__rt`,
    /// `crate::rt`); the crate's page says what must be in it.
    pub fn runtime(mut self, path: impl Into<String>) -> Self {
        self.runtime = path.into();
        self
    }

    /// Generates the code.
    ///
    /// # Errors
    /// If a proto is faulty, cannot be put in Rust, or the code cannot be written.
    pub fn compile(&self) -> Result<(), Error> {
        let roots = match &*self.includes {
            [] => &[PathBuf::from(ROOT)][..],
            roots => roots,
        };
        let schema = schema::load(roots, &self.files)?;
        let packages = messages::generate(&schema, &self.runtime)?;
        let code = output::assemble(&packages);
        let (dir, in_build) = match &self.out_dir {
            Some(dir) => (dir.clone(), false),
            None => (std::env::var_os("OUT_DIR").map(PathBuf::from).ok_or(Error::NoOutDir)?, true),
        };
        output::write(&dir, &code, &schema.embedded())?;
        if in_build {
            directives(&schema, roots);
        }
        Ok(())
    }

    /// Generates the code; on an error prints it to stderr and exits with status 1.
    #[expect(clippy::print_stderr, reason = "a build script talks to its user through these")]
    pub fn compile_or_exit(&self) {
        if let Err(error) = self.compile() {
            eprintln!("\n{error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                eprintln!("  caused by: {cause}");
                source = cause.source();
            }
            eprintln!();
            std::process::exit(1);
        }
    }
}

/// Tells Cargo when to run the build script again. Without a listener there is nobody to tell.
fn directives(schema: &schema::Schema, roots: &[PathBuf]) {
    let mut out = std::io::stdout().lock();
    // A root that holds the whole crate would mean a rebuild at every change.
    let roots = roots.iter().filter(|root| !root.join("Cargo.toml").exists());
    for path in schema.paths.iter().chain(roots) {
        let _ = writeln!(out, "cargo:rerun-if-changed={}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_its_root() {
        let config = Config::new().path("proto/a/v1/a.proto").path("other/b.proto").path("c.proto");
        assert_eq!(config.files, ["a/v1/a.proto", "b.proto", "c.proto"]);
        assert_eq!(config.includes, ["proto", "other", "."].map(PathBuf::from));
    }
}
