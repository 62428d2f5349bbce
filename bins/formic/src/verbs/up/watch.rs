//! `formic up --watch`: a saved source file builds what is made of it and rolls it.
//!
//! It changes what is wanted the way `formic apply` does; the engine does the rest. A build that fails, or a
//! manifest with faults, changes nothing: what runs goes on.

mod sources;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use formic_plan::Service;
use formic_reconcile::{Change, Command};
use formic_spec::{HumanDuration, Manifest, Source};

use crate::engine::build::{self, Artifacts};
use crate::engine::control::Control;
use crate::engine::facts::Facts;
use crate::engine::{desired, manifest};
use crate::exit::{Failure, Outcome};
use crate::output::talk;
use sources::{Affected, Sources};
use tree::Tree;

/// What is watched, and what is known of it.
pub(crate) struct Watch {
    pub(crate) control: Control,
    /// The manifest.
    pub(crate) file: PathBuf,
    pub(crate) release: bool,
    /// What is built, package by package.
    pub(crate) built: Artifacts,
    pub(crate) manifest: Manifest,
}

/// While a program is worked on, the new one is what is wanted to be seen: it takes over as soon as it is
/// ready, and the old one is not kept for a way back.
pub(crate) fn at_once(services: &mut [Service]) {
    for service in services {
        service.update.min_ready = HumanDuration::from_millis(0);
        service.update.keep_old = HumanDuration::from_millis(0);
    }
}

impl Watch {
    /// Goes on until it is dropped; ends by itself only if nothing can be watched.
    pub(crate) async fn run(mut self) {
        if let Err(failure) = self.follow().await {
            talk(&format!("! nothing is watched any more: {failure}"));
        }
    }

    async fn follow(&mut self) -> Outcome {
        loop {
            let sources = Sources::of(&self.file, &self.manifest).await?;
            let mut tree = Tree::new(&sources.deep(), &sources.flat()).map_err(cannot_watch)?;
            loop {
                let changed = tree.changed().await.map_err(cannot_watch)?;
                let affected = sources.affected(&changed);
                if affected == Affected::default() {
                    continue;
                }
                let anew = affected.manifest || affected.structure;
                if let Err(failure) = self.take_up(affected).await {
                    talk(&format!("! {failure}"));
                }
                if anew {
                    break;
                }
            }
        }
    }

    async fn take_up(&mut self, affected: Affected) -> Outcome {
        if affected.manifest {
            let (_, manifest) = manifest::load(&self.file).map_err(|failure| {
                Failure::user(format!("{failure}\nthe manifest is not taken up; what runs goes on"))
            })?;
            self.manifest = manifest;
        }
        let mut packages = self.packages();
        packages
            .retain(|package, _| affected.packages.contains(package) || !self.built.contains_key(package));
        if !packages.is_empty() {
            let names: Vec<&str> = packages.values().map(String::as_str).collect();
            talk(&format!("building {}", names.join(", ")));
            match build::build(self.folder(), &packages, self.release).await {
                Ok(built) => self.built.extend(built),
                Err(failure) => return Err(self.still_serving(&failure, packages.values())),
            }
        }
        let rolled = self.change(&affected).await?;
        // What is no part of a revision is taken up by a new start.
        let names: Vec<String> =
            affected.services.into_iter().filter(|name| !rolled.contains(name)).collect();
        if !names.is_empty() {
            let (answer, answered) = tokio::sync::oneshot::channel();
            talk(&format!("starting {} anew", names.join(", ")));
            self.control
                .engine
                .send(Command::Restart {
                    cause: format!("watch: {}", names.join(" ")),
                    services: names,
                    answer,
                })
                .map_err(|error| Failure::user("cannot restart").because(error))?;
            if let Ok(Err(refused)) = answered.await {
                return Err(Failure::user("cannot restart").because(refused));
            }
        }
        Ok(())
    }

    /// Makes what is built now, and what the manifest says now, what is wanted; the services that change by it.
    async fn change(&self, affected: &Affected) -> Outcome<BTreeSet<String>> {
        let versions = self.control.vault.versions()?;
        let kept = &self.control.artifacts;
        let mut services = desired::services(&self.manifest, self.folder(), kept, &self.built, &versions)?;
        at_once(&mut services);
        let tag = Facts::of(&self.manifest, &self.control.features, &self.control.vault).tag()?;
        let names = affected.packages.iter().map(String::as_str);
        let names = names.chain(affected.services.iter().map(String::as_str));
        let what: Vec<&str> = names.chain(affected.manifest.then_some("the manifest")).collect();
        if what.is_empty() {
            return Ok(BTreeSet::new());
        }
        let change = Change { services, tag, index: None, cause: format!("watch: {}", what.join(", ")) };
        let changed = self.control.change(change).await.map_err(Failure::from)?;
        if changed.changed {
            for change in &changed.changes {
                let how = if change.how == "in-place" { "changed as it runs:" } else { "rolling" };
                talk(&format!("{how} {}", change.service));
            }
        } else if affected.services.is_empty() {
            talk("nothing that runs has changed");
        }
        Ok(changed.changes.into_iter().map(|change| change.service).collect())
    }

    fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("/"))
    }

    fn packages(&self) -> BTreeMap<String, String> {
        let package = |service: &formic_spec::Service| match &service.source {
            Source::Cargo(package) => Some((package.clone(), service.name.clone())),
            _ => None,
        };
        self.manifest.services.iter().filter_map(package).collect()
    }

    fn still_serving<'a>(&self, failure: &Failure, services: impl Iterator<Item = &'a String>) -> Failure {
        let view = self.control.engine.view();
        let view = view.borrow();
        let names: BTreeSet<&str> = services.map(String::as_str).collect();
        let serving = view.services.iter().filter(|service| names.contains(service.name.as_str()));
        let lines: Vec<String> = serving
            .map(|service| {
                format!("{}: build failed, still serving revision {}", service.name, service.version)
            })
            .collect();
        Failure::user(format!("{failure}\n{}", lines.join("\n")))
    }
}

fn cannot_watch(error: std::io::Error) -> Failure {
    let failure = Failure::user("cannot watch the sources");
    match error.raw_os_error() {
        // ENOSPC, EMFILE: the kernel's limits for this user.
        Some(28 | 24) => failure.help("raise fs.inotify.max_user_watches and fs.inotify.max_user_instances"),
        _ => failure,
    }
    .because(error)
}
