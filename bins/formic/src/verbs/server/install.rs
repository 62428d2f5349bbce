//! `formic server install`: a unit for systemd, which starts the server with the machine.

use std::fmt::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use formic_supervise::keeper;

use crate::cli::Install;
use crate::engine::manifest;
use crate::exit::{Failure, Outcome};
use crate::output::{self, talk};

/// Where an administrator's units are.
const SYSTEM: &str = "/etc/systemd/system";

pub(crate) fn run(args: &Install) -> Outcome {
    let (file, manifest) = manifest::load(&args.path)?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let own =
        std::env::current_exe().map_err(|error| Failure::user("cannot find this binary").because(error))?;
    let mut arguments = super::opened(&args.doors)?.map(|door| door.arguments()).unwrap_or_default();
    arguments.extend(args.doors.metrics.map(|address| ("--metrics", PathBuf::from(address.to_string()))));
    let text = unit(&manifest.app.name, &own, folder, &arguments, args.user)?;
    if args.print {
        output::data(&text);
        return Ok(());
    }
    let name = format!("formic-{}.service", manifest.app.name);
    let dir = if args.user { user_units()? } else { PathBuf::from(SYSTEM) };
    let path = dir.join(&name);
    let failed = |error: std::io::Error| {
        let failure = Failure::user(format!("cannot write {}", path.display()));
        let failure = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                failure.help("run it as root, or with --user for a unit of your own; --print shows it")
            }
            _ => failure.help("--print shows the unit without installing it"),
        };
        failure.because(error)
    };
    if path.exists() && !args.force {
        return Err(Failure::user(format!("{} is there already", path.display()))
            .help("--force replaces it; --print shows the new one"));
    }
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let mut options = std::fs::OpenOptions::new();
    let mut unit = options.write(true).create(true).truncate(true).mode(0o644).open(&path).map_err(failed)?;
    std::io::Write::write_all(&mut unit, text.as_bytes()).map_err(failed)?;
    unit.sync_all().map_err(failed)?;
    let ctl = if args.user { "systemctl --user" } else { "systemctl" };
    talk(&format!(
        "wrote {}\nnext: {ctl} daemon-reload && {ctl} enable --now {name}, then formic apply",
        path.display()
    ));
    Ok(())
}

fn user_units() -> Outcome<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let config = config.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".config")));
    let config = config.ok_or_else(|| Failure::user("neither XDG_CONFIG_HOME nor HOME is set"))?;
    Ok(config.join("systemd/user"))
}

/// The unit. `KillMode=process`: what runs is not the server's to take along.
fn unit(
    app: &str,
    program: &Path,
    folder: &Path,
    arguments: &[(&str, PathBuf)],
    user: bool,
) -> Outcome<String> {
    let mut command = format!("{} server {}", quoted(program)?, quoted(folder)?);
    for (name, value) in arguments {
        command.push_str(&format!(" {name} {}", quoted(value)?));
    }
    let mut text = String::new();
    let mut put = |line: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    };
    put("[Unit]");
    put(&format!("Description=Formic server of {app}"));
    put("After=network.target");
    put("StartLimitIntervalSec=0");
    put("");
    put("[Service]");
    put("Type=notify-reload");
    put("NotifyAccess=main");
    put(&format!("ExecStart={command}"));
    // Not after an end that was asked for, as by `formic server stop`.
    put("Restart=on-failure");
    put("RestartSec=100ms");
    put(&format!("RestartPreventExitStatus={}", keeper::HOPELESS));
    // Instances are no part of the service's own life: a stop of the unit detaches.
    put("KillMode=process");
    put("SendSIGKILL=no");
    put("TimeoutStopSec=20s");
    put("Delegate=yes");
    put("DelegateSubgroup=keeper");
    put("FileDescriptorStoreMax=4096");
    put("FileDescriptorStorePreserve=yes");
    put("TasksMax=infinity");
    put("LimitNOFILE=1048576");
    if !user {
        put("OOMScoreAdjust=-900");
    }
    put("");
    put("[Install]");
    put(if user { "WantedBy=default.target" } else { "WantedBy=multi-user.target" });
    Ok(text)
}

/// A word of a command line as systemd reads it.
fn quoted(path: &Path) -> Outcome<String> {
    let text = path.to_str().filter(|text| !text.contains(['\n', '\r'])).ok_or_else(|| {
        Failure::user(format!("{} cannot stand in a unit", path.display())).help("move it to a plain path")
    })?;
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(if escaped.contains([' ', '\t', '\'', '"', ';']) { format!("\"{escaped}\"") } else { escaped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_in_a_unit_as_one_word() {
        let quoted = |path: &str| quoted(Path::new(path)).expect("a plain path");
        assert_eq!(quoted("/srv/shop"), "/srv/shop");
        assert_eq!(quoted("/srv/my shop"), "\"/srv/my shop\"");
        assert_eq!(quoted("/srv/100%"), "/srv/100%%");
        assert_eq!(quoted("/srv/$x"), "/srv/$$x");
        assert!(super::quoted(Path::new("/srv/a\nb")).is_err());
    }

    #[test]
    fn a_unit_leaves_instances_alone() {
        let arguments = [("--metrics", PathBuf::from("127.0.0.1:9090"))];
        let unit = unit("shop", Path::new("/usr/bin/formic"), Path::new("/srv/shop"), &arguments, false);
        let unit = unit.expect("a unit");
        for line in [
            "ExecStart=/usr/bin/formic server /srv/shop --metrics 127.0.0.1:9090",
            "Type=notify-reload",
            "KillMode=process",
            "Restart=on-failure",
            "Delegate=yes",
            "FileDescriptorStoreMax=4096",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line} in\n{unit}");
        }
    }
}
