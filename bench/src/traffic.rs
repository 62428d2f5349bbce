//! `formic-bench traffic`: what becomes of calls when instances are slow, fail, are killed, are replaced or have
//! too much to do. Seven scenes, each with real processes on the loopback.
//!
//! Instances wait where others would compute, so a scene is about how calls are spread and not about how many
//! processors there are. What decides is compared with its limit; what stands beside it for comparison has none.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::arguments::Traffic;
use crate::machine;
use crate::programs::{Ours, Workspace};

mod application;
mod cost;
mod finding;
mod flaky;
mod killed;
mod overload;
mod page;
mod record;
mod rolling;
mod slow;
mod stage;
mod storm;

use finding::Scene;

/// Every policy by name; the first is the default, which has to hold the limits.
const POLICIES: [&str; 6] = ["p2c", "least_request", "round_robin", "weighted_round_robin", "random", "hash"];
const DEFAULT: &str = POLICIES[0];

/// What each scene needs.
struct Setting<'a> {
    workspace: &'a Workspace,
    programs: &'a Ours,
    scratch: &'a Path,
    /// How long each part of the load takes.
    seconds: f64,
}

/// Draws the figures of an earlier run anew, from what it kept; nothing is measured.
pub(crate) fn redraw(arguments: &Traffic, from: &Path) -> Result<()> {
    let what = || format!("read {}", from.display());
    let kept = serde_json::from_slice(&std::fs::read(from).with_context(what)?).with_context(what)?;
    let results = Workspace::find()?.root.join("bench/results");
    let mut figures = finding::figures(&kept).with_context(what)?;
    figures.retain(|(number, ..)| arguments.scenes.contains(number));
    anyhow::ensure!(!figures.is_empty(), "{} has kept no figure of these scenes", from.display());
    for (_, file, figure) in figures {
        let path = results.join(file);
        std::fs::write(&path, figure.svg()).with_context(|| format!("write {}", path.display()))?;
        eprintln!("drew {}", path.display());
    }
    Ok(())
}

/// Builds, measures, and says so. A missed limit is a result and no failure.
pub(crate) async fn run(arguments: &Traffic, scratch: &Path) -> Result<()> {
    // Before anything is built, or its load would be taken for the machine's.
    let machine = machine::facts();
    let workspace = Workspace::find()?;
    let programs = Ours::build(&workspace)?;
    let setting = Setting { workspace: &workspace, programs: &programs, scratch, seconds: arguments.seconds };
    let results = workspace.root.join("bench/results");
    std::fs::create_dir_all(&results).with_context(|| format!("make {}", results.display()))?;
    let mut scenes = Vec::new();
    for &number in &arguments.scenes {
        let scene = setting.play(number).await.with_context(|| format!("scene {number}"))?;
        let path = results.join(scene.file());
        std::fs::write(&path, scene.figure.svg()).with_context(|| format!("write {}", path.display()))?;
        eprint!("{}", finding::text(std::slice::from_ref(&scene)));
        scenes.push(scene);
    }
    print!("{}", finding::text(&scenes));
    if let Some(path) = &arguments.json {
        let before = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let found = finding::json(&scenes, &machine, arguments.seconds, before);
        let json = finding::lines(found).context("write the findings as JSON")?;
        std::fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    let page = results.join("traffic.md");
    if arguments.is_whole() {
        page::write(&page, &scenes, &machine, arguments.seconds)?;
        eprintln!("wrote bench/results/traffic.md");
    } else if arguments.is_long() {
        page::replace(&page, &scenes, &machine, arguments.seconds)?;
        eprintln!("wrote what was played into bench/results/traffic.md");
    } else {
        eprintln!("too short to be kept: the results page stays as it is");
    }
    Ok(())
}

impl Setting<'_> {
    async fn play(&self, number: u8) -> Result<Scene> {
        eprintln!("scene {number}");
        match number {
            1 => slow::play(self).await,
            2 => flaky::play(self).await,
            3 => killed::play(self).await,
            4 => rolling::play(self).await,
            5 => overload::play(self).await,
            6 => storm::play(self).await,
            _ => cost::play(self).await,
        }
    }
}
