//! What each service is made of: the files whose change means another build, or another start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use formic_spec::{Manifest, Source};

use crate::engine::{build, files};
use crate::exit::Outcome;

/// The sources of an application.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    manifest: PathBuf,
    /// Package to folders: its own and those of the packages that it depends on by path.
    packages: BTreeMap<String, BTreeSet<PathBuf>>,
    /// File of a program that is run as it is, to the services that run it.
    files: BTreeMap<PathBuf, BTreeSet<String>>,
}

/// What a change of files means.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Affected {
    /// The manifest is another.
    pub(crate) manifest: bool,
    /// What packages are made of may be another.
    pub(crate) structure: bool,
    /// Packages to build.
    pub(crate) packages: BTreeSet<String>,
    /// Services to start anew.
    pub(crate) services: BTreeSet<String>,
}

impl Sources {
    /// Looks at the manifest's packages and programs.
    pub(crate) async fn of(file: &Path, manifest: &Manifest) -> Outcome<Self> {
        let folder = file.parent().unwrap_or(Path::new("/"));
        let mut sources = Self { manifest: file.to_path_buf(), ..Self::default() };
        let mut wanted = BTreeSet::new();
        for service in &manifest.services {
            match &service.source {
                Source::Cargo(package) => {
                    wanted.insert(package.clone());
                }
                Source::Command(_) => {
                    for path in files::named(service, folder).into_values() {
                        sources.files.entry(path).or_default().insert(service.name.clone());
                    }
                }
                Source::Image(_) => {}
            }
        }
        if !wanted.is_empty() {
            sources.packages = build::folders(folder, &wanted).await?;
        }
        Ok(sources)
    }

    /// Folders to watch with all that is below them.
    pub(crate) fn deep(&self) -> BTreeSet<PathBuf> {
        self.packages.values().flatten().cloned().collect()
    }

    /// Folders to watch for their own files.
    pub(crate) fn flat(&self) -> BTreeSet<PathBuf> {
        let files = self.files.keys().chain([&self.manifest]);
        files.filter_map(|file| file.parent()).map(Path::to_path_buf).collect()
    }

    /// What these changes mean.
    pub(crate) fn affected(&self, changed: &BTreeSet<PathBuf>) -> Affected {
        let mut affected = Affected::default();
        for path in changed {
            affected.manifest |= *path == self.manifest;
            if let Some(services) = self.files.get(path) {
                affected.services.extend(services.iter().cloned());
            }
            if *path == self.manifest {
                continue;
            }
            for (package, folders) in &self.packages {
                // The nearest folder of any package owns a file: packages may stand within one another.
                let owner = self.deep().into_iter().filter(|folder| path.starts_with(folder)).max();
                if owner.is_some_and(|owner| folders.contains(&owner)) {
                    affected.structure |= path.file_name().is_some_and(|name| name == "Cargo.toml");
                    affected.packages.insert(package.clone());
                }
            }
        }
        affected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_the_packages_that_are_made_of_it() {
        let set = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<BTreeSet<_>>();
        let sources = Sources {
            manifest: "/w/formic.toml".into(),
            packages: BTreeMap::from([
                ("order".into(), set(&["/w/order", "/w/token"])),
                ("user".into(), set(&["/w/user", "/w/token"])),
                ("root".into(), set(&["/w"])),
            ]),
            files: BTreeMap::from([("/w/app.py".into(), ["reports".to_owned()].into())]),
        };
        let packages = |path: &str| sources.affected(&set(&[path])).packages.into_iter().collect::<Vec<_>>();
        assert_eq!(packages("/w/order/src/main.rs"), ["order"]);
        assert_eq!(packages("/w/token/src/lib.rs"), ["order", "user"]);
        assert_eq!(packages("/w/src/main.rs"), ["root"]);
        assert!(packages("/elsewhere/main.rs").is_empty());
        let manifest = sources.affected(&set(&["/w/formic.toml"]));
        assert_eq!(manifest, Affected { manifest: true, ..Affected::default() });
        assert!(sources.affected(&set(&["/w/order/Cargo.toml"])).structure);
        assert_eq!(sources.affected(&set(&["/w/app.py"])).services, ["reports".to_owned()].into());
        assert!(sources.flat().contains(Path::new("/w")));
    }
}
