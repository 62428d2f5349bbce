//! Who is in no instance's cgroup: all lists of processes that the kernel keeps, but for those below one cgroup.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::is_gone;

/// How long this may take before it is given up as incomplete.
const LIMIT: Duration = Duration::from_secs(2);

/// Shows the number of every process that is in none of the cgroups at `but` and below it to `each`, as far as cgroups can
/// be seen from here. `false` if it took too long.
pub(crate) fn pids_outside(but: &Path, mut each: impl FnMut(u32)) -> io::Result<bool> {
    let begun = Instant::now();
    let is_group = |dir: &&Path| dir.join("cgroup.procs").exists();
    let top = but.ancestors().skip_while(|dir| !is_group(dir)).take_while(is_group).last();
    let mut next = vec![top.ok_or(io::ErrorKind::NotFound)?.to_owned()];
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
        let found = |but: &Path| {
            let mut found = Vec::new();
            assert!(pids_outside(but, |pid| found.push(pid)).unwrap());
            found.sort_unstable();
            found
        };
        assert_eq!(found(&top.join("ours")), [1, 2, 3]);
        // Not made yet, or removed: nobody is in it.
        assert_eq!(found(&top.join("never")), [1, 2, 3, 4, 5]);
        fs::remove_dir_all(&top).unwrap();
        assert!(pids_outside(&top.join("ours"), |_| {}).is_err());
    }
}
