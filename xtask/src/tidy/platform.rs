//! Services build on macOS too: what only Linux has stays with supervision and the binary, or under a `#[cfg]` beside what
//! other systems do instead.

use super::Finding;
use super::code::{bare, system_lines, test_lines};
use super::tree::Source;

const HOMES: [&str; 4] = ["crates/formic-supervise/", "crates/formic-reconcile/", "bins/", "bench/"];

pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in
        sources.iter().filter(|source| source.is_rust() && !source.is_generated() && !source.is_test())
    {
        if HOMES.iter().any(|home| source.path.starts_with(home)) || source.path.starts_with("xtask/") {
            continue;
        }
        let bare = bare(&source.text);
        let (in_tests, on_some) = (test_lines(&bare), system_lines(&bare));
        for (index, (code, text)) in bare.lines().zip(source.text.lines()).enumerate() {
            let is_comment = text.trim_start().starts_with("//");
            let uses_proc = text.contains("\"/proc/") && !is_comment;
            if (code.contains("os::linux") || uses_proc) && !in_tests[index] && !on_some[index] {
                let remedy =
                    "move it to formic-supervise, or say under `#[cfg(target_os = …)]` what other systems do";
                findings.push(Finding::new(&source.path, index + 1, "something that only Linux has", remedy));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> usize {
        check(&[Source::new(path, text)]).len()
    }

    #[test]
    fn linux_stays_with_supervision() {
        assert_eq!(faults("crates/formic-client/src/a.rs", "use std::os::linux::process::PidFd;\n"), 1);
        assert_eq!(faults("crates/formic-telemetry/src/a.rs", "read(\"/proc/self/statm\");\n"), 1);
        assert_eq!(faults("crates/formic-supervise/src/a.rs", "read(\"/proc/self/statm\");\n"), 0);
        assert_eq!(faults("crates/formic-client/src/a.rs", "// not \"/proc/self\" nor os::linux\n"), 0);
        let chosen = "#[cfg(target_os = \"linux\")]\nfn f() {\n    read(\"/proc/self/fd\");\n}\n";
        assert_eq!(faults("crates/formic-client/src/a.rs", chosen), 0);
        assert_eq!(faults("crates/formic-client/src/a.rs", "use std::os::unix::net::UnixStream;\n"), 0);
    }
}
