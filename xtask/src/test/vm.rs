//! Tests in a machine of their own: what a kernel can do that this one may not be set up for.
//!
//! A kernel with cgroup v1 limits no memory and no number of processes for us, and those tests are skipped there. This kind
//! starts the distribution's kernel in an emulator, with every controller in cgroup v2, and runs them in it. The machine has
//! this one's files, read-only, with what is written kept in its own memory; no network but its own loopback; and its first
//! process is ours, so nothing is left when it ends. Its processor is emulated, so it needs no right to virtualise; it is some
//! ten times slower, and only tests that need that kernel are worth it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::libtest::{Parser, Show};
use super::tally::Tally;
use crate::run;
use crate::workspace::{Workspace, target_dir};

mod initramfs;
mod parts;

use parts::Parts;

/// What runs there: package, test target, and the tests whose names begin so.
const TESTS: [(&str, &str, &str); 1] = [("formic-supervise", "it", "cgroup::")];

/// From power on to power off.
const RUN: Duration = Duration::from_secs(15 * 60);
/// How long the server of its files may take to come up.
const FILES: Duration = Duration::from_secs(10);
/// What the first process says once the machine is up, and when the tests have ended.
const UP: &str = "formic-vm: up";
const DONE: &str = "formic-vm: done";

pub(crate) fn run(workspace: &Workspace, verbose: bool) -> Result<Tally> {
    let folder = target_dir(workspace).join("vm");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let mut tally = Tally::default();
    let parts = match Parts::find(&folder) {
        Ok(parts) => parts,
        Err(reason) => {
            tally.skip(format!("{reason:#}"));
            return Ok(tally);
        }
    };
    let mut script = String::new();
    for (package, target, prefix) in TESTS {
        let program = executable(workspace, package, target)?;
        let name = program.file_name().and_then(|name| name.to_str()).context("a test has a name")?;
        // The heading is what cargo prints above a test program, which is what the parser knows.
        script.push_str(&format!("echo '     Running {target} (vm/{name})'\n"));
        script.push_str(&format!("cd '{}' && ", workspace.root.join("crates").join(package).display()));
        script.push_str(&format!("'{}' {prefix} --show-output\n", program.display()));
    }
    let image = folder.join("initramfs");
    initramfs::write(&image, &parts, &script)?;
    let files = Files::serve(&parts.virtiofsd, &folder)?;
    let mut parser = Parser::default();
    let (mut up, mut done, mut before) = (false, false, Vec::new());
    let ending = run::stream_within(&mut machine(&parts, &image, &files.socket), RUN, |line| {
        up |= line.ends_with(UP);
        done |= line.ends_with(DONE);
        if up && !done {
            if parser.line(line) == Show::Always || verbose {
                println!("{line}");
            }
        } else if !up {
            before.push(line.to_owned());
        }
    })?;
    if !up {
        before.iter().for_each(|line| println!("{line}"));
        tally.skip(format!("the machine did not come up ({ending:?}); what it said is above"));
        return Ok(tally);
    }
    let mut tally = parser.finish();
    match ending.fault() {
        Some(fault) => tally.fail(format!("the machine {fault}")),
        None if !done => tally.fail("the machine ended before its tests had".to_owned()),
        None if tally.is_empty() => tally.fail("no test ran in the machine".to_owned()),
        None => {}
    }
    Ok(tally)
}

/// Builds a test program and says where it is.
fn executable(workspace: &Workspace, package: &str, target: &str) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Artifact {
        target: Named,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let mut command = workspace.cargo(["test", "--no-run", "--locked", "--message-format", "json"]);
    let mut found = None;
    let ending = run::stream(command.args(["--package", package, "--test", target]), |line| {
        match serde_json::from_str::<Artifact>(line) {
            Ok(artifact) if artifact.target.name == target => found = artifact.executable.or(found.take()),
            // What else cargo has to tell, to programs and to people.
            _ if line.starts_with('{') => {}
            _ => println!("{line}"),
        }
    })?;
    if let Some(fault) = ending.fault() {
        bail!("building the test `{target}` of {package} {fault}; its output is above");
    }
    found.with_context(|| format!("cargo named no program for the test `{target}` of {package}"))
}

fn machine(parts: &Parts, image: &Path, files: &Path) -> Command {
    let mut command = Command::new(&parts.qemu);
    // Copies of a byte at a time, which this processor would offer as the quickest, are the slowest to emulate.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm", "-smp", "2", "-m", "2G"]);
    // The server of the files reads and writes the machine's own memory.
    command.args(["-object", "memory-backend-memfd,id=memory,size=2G,share=on"]);
    command.args(["-numa", "node,memdev=memory", "-nodefaults", "-no-reboot", "-display", "none"]);
    command.args(["-device", "vhost-user-fs-pci,chardev=files,tag=host", "-chardev"]);
    command.arg(format!("socket,id=files,path={}", files.display()));
    command.arg("-kernel").arg(&parts.kernel).arg("-initrd").arg(image);
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off", "-serial", "stdio"]);
    command
}

/// The server of this machine's files; it ends with the value.
struct Files {
    server: Child,
    socket: PathBuf,
}

impl Files {
    fn serve(program: &Path, folder: &Path) -> Result<Self> {
        let socket = folder.join("files.sock");
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(program);
        command.arg(format!("--socket-path={}", socket.display()));
        command.args(["-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always", "-f"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut files = Self { server: command.spawn().context("start virtiofsd")?, socket };
        let started = Instant::now();
        while !files.socket.exists() {
            if let Some(status) = files.server.try_wait().context("look after virtiofsd")? {
                bail!("virtiofsd ended with {status}");
            }
            if started.elapsed() > FILES {
                bail!("virtiofsd did not come up within {} s", FILES.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
