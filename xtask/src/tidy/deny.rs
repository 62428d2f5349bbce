//! `deny.toml` is for people who have cargo-deny; it must say what `tidy` says.

use std::collections::BTreeSet;

use super::tree::Source;
use super::{Finding, bans, licences};

const PATH: &str = "deny.toml";

pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let Some(source) = sources.iter().find(|source| source.path == PATH) else {
        return vec![Finding::new(PATH, 1, "the file is missing", "write the lists of tidy into it")];
    };
    let table: toml::Table = match source.text.parse() {
        Ok(table) => table,
        Err(error) => {
            return vec![Finding::new(PATH, 1, format!("not TOML: {}", error.message()), "mend it")];
        }
    };
    let allowed = entries(&table, "licenses", "allow");
    let banned = entries(&table, "bans", "deny");
    let mut findings = compare(source, "licenses.allow", &allowed, licences::ALLOWED.iter().copied());
    findings.extend(compare(source, "bans.deny", &banned, bans::BANNED.iter().map(|(name, _)| *name)));
    findings
}

/// The strings of a list, or the `crate` (as cargo-deny calls it) of each of its tables.
fn entries(table: &toml::Table, section: &str, key: &str) -> BTreeSet<String> {
    let list = table.get(section).and_then(|section| section.get(key)).and_then(toml::Value::as_array);
    let text =
        |value: &toml::Value| value.as_str().or_else(|| value.get("crate")?.as_str()).map(str::to_owned);
    list.into_iter().flatten().filter_map(text).collect()
}

fn compare<'a>(
    source: &Source,
    list: &str,
    theirs: &BTreeSet<String>,
    ours: impl Iterator<Item = &'a str>,
) -> Vec<Finding> {
    // An exception of SPDX is a licence of its own to cargo-deny and to us alike.
    let ours: BTreeSet<String> = ours.map(str::to_owned).collect();
    let differing = ours.symmetric_difference(theirs);
    differing
        .map(|name| {
            let side = if ours.contains(name) { "only tidy has" } else { "only deny.toml has" };
            let key = list.rsplit('.').next().unwrap_or(list);
            let what = format!("{side} `{name}` in `{list}`");
            Finding::new(PATH, source.line_of(key), what, "make the two lists the same")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_lists_are_compared_both_ways() {
        let source = Source::new(PATH, "[bans]\ndeny = [\"ring\"]\n");
        let theirs = BTreeSet::from(["ring".to_owned(), "extra".to_owned()]);
        let findings = compare(&source, "bans.deny", &theirs, ["ring", "tonic"].into_iter());
        let whats: Vec<&str> = findings.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            whats,
            ["only deny.toml has `extra` in `bans.deny`", "only tidy has `tonic` in `bans.deny`"]
        );
        assert_eq!(findings[0].line, 2);
    }

    #[test]
    fn both_ways_of_writing_a_ban_are_read() {
        let table: toml::Table =
            "[bans]\ndeny = [\"a\", { crate = \"b\", reason = \"c\" }]\n".parse().expect("it is TOML");
        assert_eq!(entries(&table, "bans", "deny"), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert!(entries(&table, "licenses", "allow").is_empty());
    }

    #[test]
    fn a_missing_file_is_one_finding() {
        assert_eq!(check(&[]).len(), 1);
    }
}
