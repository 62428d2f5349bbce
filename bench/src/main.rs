//! `formic-bench rpc`: what Formic costs beside its peers, measured in one run; `formic-bench traffic`: what becomes
//! of calls when instances are unwell; `formic-bench engine`: what the engine costs with many instances.
//! `cargo xtask bench` runs it.
//!
//! Everything that is compared is built here, in the release profile, and runs in processes of its own;
//! this one only starts, feeds and reads them, and is the registry in which the service is found.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool: its output is what it is for"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

mod arguments;
mod chart;
mod discovery;
mod engine;
mod machine;
mod page;
mod process;
mod programs;
mod report;
mod rpc;
mod start;
mod traffic;
mod wire;

use arguments::{Arguments, Command};
use discovery::Discovery;
use programs::{Programs, Workspace};
use report::{Report, Target};

/// The release binary is to fit into this; people download it.
const BINARY_LIMIT_MIB: f64 = 25.0;

formic::include_protos!();

/// What a shell says of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let command = match arguments::parse(&arguments) {
        Ok(Command::Help) => {
            print!("{}", arguments::USAGE);
            return ExitCode::SUCCESS;
        }
        Ok(command) => command,
        Err(fault) => {
            eprintln!("error: {fault}\n\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    // What is dropped ends its processes.
    let outcome = tokio::select! {
        outcome = play(&command) => outcome,
        () = asked_to_end() => return ExitCode::from(INTERRUPTED),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn play(command: &Command) -> Result<()> {
    match command {
        Command::Rpc(arguments) => run(arguments).await,
        Command::Wire(arguments) => run_wire(arguments).await,
        Command::Traffic(arguments) => {
            if let Some(from) = &arguments.redraw {
                return traffic::redraw(arguments, from);
            }
            let scratch = Scratch::new()?;
            traffic::run(arguments, &scratch.0).await
        }
        Command::Engine(arguments) => {
            let scratch = Scratch::new()?;
            engine::run(arguments, &scratch.0).await
        }
        Command::Help => Ok(()),
    }
}

/// Ctrl-C, or the polite signal.
async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        // Without signals only the end of the work ends it.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Builds, measures, and says so. A missed target is a result and no failure.
async fn run(arguments: &Arguments) -> Result<()> {
    // Before anything is built, or its load would be taken for the machine's.
    let machine = machine::facts();
    let workspace = Workspace::find()?;
    let programs = Programs::build(&workspace)?;
    let scratch = Scratch::new()?;
    let discovery = Discovery::serve(&scratch.0).await?;

    let started = start::measure(&programs, &discovery, &scratch.0, arguments.starts).await?;
    let rows = rpc::measure(&programs, &discovery, &scratch.0, arguments).await?;
    let mut targets = rpc::targets(&rows);
    targets.extend(started.targets());
    let size = programs.ours.formic_size()? as f64 / f64::from(1 << 20);
    targets.push(Target::at_most("size of the binary formic, MiB", size, BINARY_LIMIT_MIB));

    let report = Report { machine, load: arguments.load(), rows, targets };
    print!("{}", report.text());
    if let Some(path) = &arguments.json {
        let mut json = serde_json::to_string_pretty(&report.json()).context("write the report as JSON")?;
        json.push('\n');
        std::fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    if arguments.quick {
        eprintln!("a quick run is too short to be kept: the results page stays as it is");
    } else {
        let path = workspace.root.join("bench/results/rpc.md");
        page::write(&path, &report)?;
        eprintln!("wrote bench/results/rpc.md");
    }
    Ok(())
}

/// The same for what the multiplexed wire is for.
async fn run_wire(arguments: &Arguments) -> Result<()> {
    let machine = machine::facts();
    let workspace = Workspace::find()?;
    let programs = Programs::build(&workspace)?;
    let scratch = Scratch::new()?;
    let discovery = Discovery::serve(&scratch.0).await?;
    let found = wire::measure(&programs, &discovery, &scratch.0, arguments).await?;
    let page = page::wire(&machine, &arguments.load(), &found);
    print!("{page}");
    if let Some(path) = &arguments.json {
        let json = serde_json::json!({
            "bench": "wire", "machine": machine, "rows": found.rows, "targets": found.targets,
            "idle": found.idle, "storm": found.storm,
        });
        std::fs::write(path, format!("{json:#}\n")).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(why) = arguments.too_short() {
        eprintln!("{why}; the results page stays as it is");
        return Ok(());
    }
    page::keep(&workspace.root.join("bench/results/wire.md"), &page)?;
    eprintln!("wrote bench/results/wire.md");
    Ok(())
}

/// A folder for sockets and logs, gone with the run.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("formic-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    // What cannot be removed from a folder for temporary things stays there.
    let _ = std::fs::remove_dir_all(path);
}
