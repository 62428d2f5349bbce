//! Who is in no instance's cgroup: all lists of processes that the kernel keeps, but for those below one cgroup.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{field, is_gone};

/// How long this may take before it is given up as incomplete.
const LIMIT: Duration = Duration::from_secs(2);

/// Shows the number of every process that is in none of the cgroups at `but` and below it to `each`, as far as cgroups can
/// be seen from here. `false` if it took too long. With more than `most` cgroups to look into it is not begun: each costs as
/// much as some processes do in `/proc`.
pub(crate) fn pids_outside(but: &Path, most: u64, mut each: impl FnMut(u32)) -> io::Result<bool> {
    let begun = Instant::now();
    let is_group = |dir: &&Path| dir.join("cgroup.procs").exists();
    let top = but.ancestors().skip_while(|dir| !is_group(dir)).take_while(is_group).last();
    let top = top.ok_or(io::ErrorKind::NotFound)?;
    let below = |dir: &Path| {
        let stat = fs::read_to_string(dir.join("cgroup.stat")).unwrap_or_default();
        field(&stat, "nr_descendants").unwrap_or(0)
    };
    if below(top).saturating_sub(below(but)) > most {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "there are too many cgroups"));
    }
    let mut next = vec![top.to_owned()];
    while let Some(dir) = next.pop() {
        if begun.elapsed() > LIMIT {
            return Ok(false);
        }
        if dir == but {
            continue;
        }
        match fs::read_to_string(dir.join("cgroup.procs")) {
            // Who cannot be seen from this namespace is 0.
            Ok(procs) => {
                procs.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != 0).for_each(&mut each)
            }
            // Its processes are listed further up, where its threads' domain is.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) || is_gone(&error) => {}
            Err(error) => return Err(error),
        }
        let entries = match fs::read_dir(&dir) {
            Err(error) if is_gone(&error) => continue,
            entries => entries?,
        };
        let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        next.extend(dirs.map(|entry| entry.path()));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// On plain files, whatever the machine has.
    #[test]
    fn every_list_but_those_below_one_is_read() {
        let top = std::env::temp_dir().join(format!("formic-outside-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        for (dir, procs) in [("", "1\n2\n0\n"), ("a", ""), ("a/b", "3\n"), ("ours", "4\n"), ("ours/x", "5\n")]
        {
            fs::create_dir_all(top.join(dir)).unwrap();
            fs::write(top.join(dir).join("cgroup.procs"), procs).unwrap();
        }
        fs::create_dir_all(top.join("gone")).unwrap();
        for (dir, below) in [("", 14), ("ours", 5)] {
            fs::write(
                top.join(dir).join("cgroup.stat"),
                format!("nr_descendants {below}\nnr_dying_descendants 0\n"),
            )
            .unwrap();
        }
        let found = |but: &Path| {
            let mut found = Vec::new();
            assert!(pids_outside(but, 10, |pid| found.push(pid)).unwrap());
            found.sort_unstable();
            found
        };
        assert_eq!(found(&top.join("ours")), [1, 2, 3]);
        // Nine are none of ours.
        assert!(pids_outside(&top.join("ours"), 8, |_| {}).is_err());
        fs::remove_dir_all(&top).unwrap();
        assert!(pids_outside(&top.join("ours"), 10, |_| {}).is_err());
    }
}
