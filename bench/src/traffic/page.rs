//! The results page of the scenes.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::finding::Scene;
use crate::chart::number;
use crate::machine::Machine;
use crate::page;

pub(crate) fn write(path: &Path, scenes: &[Scene], machine: &Machine, seconds: f64) -> Result<()> {
    page::keep(path, &render(scenes, machine, seconds))
}

/// Puts some scenes in the place of what a page has of them.
pub(crate) fn replace(path: &Path, scenes: &[Scene], machine: &Machine, seconds: f64) -> Result<()> {
    let mut page = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    for scene in scenes {
        page = with(&page, scene, machine, seconds);
    }
    std::fs::write(path, page).with_context(|| format!("write {}", path.display()))
}

/// A page with this scene in the place of the one with its number; as it is, if it has none.
fn with(page: &str, scene: &Scene, machine: &Machine, seconds: f64) -> String {
    let Some(begin) = page.find(&format!("\n## {}. ", scene.number)) else { return page.into() };
    let rest = &page[begin + 1..];
    let end = [rest.find("\n## "), rest.find("\n<!--")].into_iter().flatten().min();
    let after = end.map_or("", |end| &rest[end..]);
    format!("{}\n{}{after}", &page[..begin], section(scene, machine, seconds))
}

fn render(scenes: &[Scene], machine: &Machine, seconds: f64) -> String {
    let mut page = String::from(
        "# Traffic that heals itself, scene by scene\n\n\
         Written by `cargo xtask bench traffic`; run it to get your own.\n\n\
         Every instance and every caller is a process of its own on the loopback, written on the facade as anybody \
         would, with everything on that is on by default. Calls come at random moments, whether or not earlier ones \
         were answered. Instances wait where others would compute. `p2c` is the default policy and has to hold the \
         limits; what has no limit stands beside it for comparison.\n",
    );
    for scene in scenes {
        page.push('\n');
        page.push_str(&section(scene, machine, seconds));
    }
    page
}

fn section(scene: &Scene, machine: &Machine, seconds: f64) -> String {
    let mut page = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{text}");
    };
    line(format!("## {}. {}\n", scene.number, scene.title));
    line(format!("{}\n", scene.setup));
    line(format!("![{}]({})\n", scene.title, scene.file()));
    line(format!(
        "{}, {} cores ({}), {}. Parts of {seconds} s. Load average beforehand {}.\n",
        machine.date,
        machine.cores,
        machine.processor,
        machine.system,
        machine.load_average.map_or("unknown".into(), |load| format!("{load:.2}")),
    ));
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

    #[test]
    fn a_scene_that_was_played_again_takes_the_place_of_itself() {
        let facts = crate::machine::facts();
        let first =
            render(&[scene()], &facts, 8.0) + "\n## 3. another\n\nkept\n\n<!-- by hand -->\nkept too\n";
        let second = with(&first, &scene(), &facts, 16.0);
        assert_eq!(second, first.replace("Parts of 8 s", "Parts of 16 s"));
    }
}
