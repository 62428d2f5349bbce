//! The results page of the scenes.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::finding::Scene;
use crate::chart::number;
use crate::machine::Machine;
use crate::page;

pub(crate) fn write(path: &Path, scenes: &[Scene], machine: &Machine, seconds: f64) -> Result<()> {
    page::keep(path, &render(scenes, machine, seconds))
}

fn render(scenes: &[Scene], machine: &Machine, seconds: f64) -> String {
    let mut page = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{text}");
    };
    line("# Traffic that heals itself, scene by scene\n".into());
    line("Written by `cargo xtask bench traffic`; run it to get your own.\n".into());
    line(format!(
        "{}, {} cores ({}), {}. Parts of {seconds} s. Load average beforehand {}.\n",
        machine.date,
        machine.cores,
        machine.processor,
        machine.system,
        machine.load_average.map_or("unknown".into(), |load| format!("{load:.2}")),
    ));
    line(
        "Every instance and every caller is a process of its own on the loopback, written on the facade as anybody \
         would, with everything on that is on by default. Calls come at random moments, whether or not earlier ones \
         were answered. Instances wait where others would compute. `p2c` is the default policy and has to hold the \
         limits; what has no limit stands beside it for comparison."
            .into(),
    );
    for scene in scenes {
        line(format!("\n## {}. {}\n", scene.number, scene.title));
        line(format!("{}\n", scene.setup));
        line(format!("![{}]({})\n", scene.title, scene.file()));
        line("| subject | figure | value | limit | |".into());
        line("|---|---|---|---|---|".into());
        for finding in &scene.findings {
            let (limit, verdict) = finding.verdict();
            let verdict = verdict.replace("MISSED", "**missed**");
            line(format!(
                "| {} | {} | {} | {limit} | {verdict} |",
                finding.subject,
                finding.what,
                number(finding.value)
            ));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::finding::tests::scene;
    use super::*;

    #[test]
    fn a_scene_is_told_with_its_figure_and_its_limits() {
        let page = render(&[scene()], &crate::machine::facts(), 8.0);
        for part in
            ["## 2. one fails", "![one fails](traffic-2.svg)", "| ≤ 0.1 | **missed** by 0.100", "| random |"]
        {
            assert!(page.contains(part), "{part} in {page}");
        }
    }
}
