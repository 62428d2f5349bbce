//! What the machine is made of: an emulator, a server of files, a shell that needs no library, and a kernel.
//!
//! On a Debian machine whose user is root what is missing is installed, and the kernel is only unpacked, below the target
//! folder. `FORMIC_VM_KERNEL` names a folder with another one: `boot/vmlinuz-…` and `lib/modules/…`, as a package has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::run;
use crate::workspace::capture;

/// The package whose only dependency is the newest kernel of the distribution.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What leads to the host's files, each after what it stands on; one that is part of the kernel has no file.
const MODULES: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "fuse",
    "nd_btt",
    "libnvdimm",
    "dax",
    "virtiofs",
    "overlay",
];
/// For a package to come and be unpacked.
const INSTALL: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
pub(super) struct Parts {
    pub(super) qemu: PathBuf,
    pub(super) virtiofsd: PathBuf,
    pub(super) busybox: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) modules: Vec<PathBuf>,
}

impl Parts {
    /// Finds or installs them; the error says why there is no machine.
    pub(super) fn find(folder: &Path) -> Result<Self> {
        ensure!(cfg!(all(target_os = "linux", target_arch = "x86_64")), "only Linux on x86-64 can start it");
        ensure!(capture(Command::new("id").arg("-u"))?.trim() == "0", "only root can serve it all files");
        let qemu = tool("qemu-system-x86", &["/usr/bin/qemu-system-x86_64"])?;
        let virtiofsd = tool("virtiofsd", &["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"])?;
        let busybox = tool("busybox-static", &["/bin/busybox"])?;
        let from = match std::env::var_os("FORMIC_VM_KERNEL") {
            Some(folder) => PathBuf::from(folder),
            None => unpacked(folder)?,
        };
        let kernel = only(&from.join("boot"), |name| name.starts_with("vmlinuz-"))?;
        let modules = modules(&only(&from.join("lib/modules"), |_| true)?.join("kernel"), folder)?;
        Ok(Self { qemu, virtiofsd, busybox, kernel, modules })
    }
}

/// The first of `places` that is there, once `package` is installed if none is.
fn tool(package: &str, places: &[&str]) -> Result<PathBuf> {
    let find = || places.iter().map(PathBuf::from).find(|place| place.exists());
    if let Some(found) = find() {
        return Ok(found);
    }
    apt(&["install", "--yes", "--no-install-recommends", package], Path::new("/"))?;
    find().with_context(|| format!("{} is not there, nor does the package {package} bring it", places[0]))
}

/// The folder into which the kernel's package is unpacked.
fn unpacked(folder: &Path) -> Result<PathBuf> {
    let kernel = folder.join("kernel");
    if kernel.join("boot").exists() {
        return Ok(kernel);
    }
    let depends = capture(Command::new("apt-cache").args(["depends", "--important", KERNEL]))
        .or_else(|_| {
            apt(&["update"], folder)?;
            capture(Command::new("apt-cache").args(["depends", "--important", KERNEL]))
        })
        .context("ask for the distribution's kernel")?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image"))
        .map(|rest| format!("linux-image{rest}"))
        .with_context(|| format!("{KERNEL} names no kernel"))?;
    let fresh = folder.join("kernel.new");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).with_context(|| format!("make {}", fresh.display()))?;
    apt(&["download", &package], &fresh)?;
    let archive = only(&fresh, |name| name.ends_with(".deb"))?;
    capture(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&fresh))?;
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
    // Whole or not at all.
    let _ = fs::remove_dir_all(&kernel);
    fs::rename(&fresh, &kernel).with_context(|| format!("make {}", kernel.display()))?;
    Ok(kernel)
}

/// The modules that have files, unpacked where the package has them packed.
fn modules(below: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = capture(Command::new("find").arg(below).args(["-name", "*.ko*"]))?;
    let mut found = Vec::new();
    for name in MODULES {
        let is_it = |path: &&str| {
            let file = path.rsplit('/').next().unwrap_or_default();
            file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".ko"))
        };
        let Some(path) = listed.lines().find(is_it) else { continue };
        if path.ends_with(".ko") {
            found.push(PathBuf::from(path));
            continue;
        }
        let plain = folder.join(format!("{name}.ko"));
        let file = fs::File::create(&plain).with_context(|| format!("write {}", plain.display()))?;
        let status = Command::new("xz").args(["--decompress", "--stdout", path]).stdout(file).status();
        ensure!(status.context("start xz")?.success(), "xz cannot unpack {path}");
        found.push(plain);
    }
    Ok(found)
}

/// The one entry of a folder whose name fits.
fn only(folder: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut found = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(&fits))
        .map(|entry| entry.path());
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        (None, _) => bail!("{} has not what is looked for", folder.display()),
        (Some(_), Some(_)) => bail!("{} has more than one of what is looked for", folder.display()),
    }
}

fn apt(args: &[&str], folder: &Path) -> Result<()> {
    let mut said = Vec::new();
    let mut command = Command::new("apt-get");
    command.args(args).current_dir(folder).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let ending = run::stream_within(&mut command, INSTALL, |line| said.push(line.to_owned()))?;
    match ending.fault() {
        None => Ok(()),
        Some(fault) => {
            let last = said.iter().rev().find(|line| !line.trim().is_empty());
            bail!("apt-get {} {fault}: {}", args.join(" "), last.map_or("", String::as_str))
        }
    }
}
