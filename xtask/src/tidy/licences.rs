//! Every package in the graph may be shipped under our own terms.

use super::Finding;
use crate::workspace::Metadata;

/// `deny.toml` says the same; `tidy` compares the two.
pub(crate) const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub(crate) fn check(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let remedy =
            "take another crate; only a licence without duties for our users may join ALLOWED and deny.toml";
        let what = match &package.license {
            None => format!("{} {} names no licence", package.name, package.version),
            Some(expression) => match allowed(expression) {
                Some(true) => continue,
                Some(false) => format!("{} {} is under `{expression}`", package.name, package.version),
                None => format!(
                    "{} {} has a licence nobody can read: `{expression}`",
                    package.name, package.version
                ),
            },
        };
        findings.push(Finding::new("Cargo.lock", 1, what, remedy));
    }
    findings
}

/// Whether an SPDX expression can be met from the list; `None` when it is not an expression.
fn allowed(expression: &str) -> Option<bool> {
    // Old manifests write `MIT/Apache-2.0` for a choice.
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut parser = Expression { words: &words, at: 0 };
    let verdict = parser.choice()?;
    (parser.at == words.len()).then_some(verdict)
}

/// `choice = all (OR all)*`, `all = one (AND one)*`, `one = ( choice ) | licence (WITH exception)?`
struct Expression<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl<'a> Expression<'a> {
    fn choice(&mut self) -> Option<bool> {
        let mut verdict = self.all()?;
        while self.take("OR") {
            verdict |= self.all()?;
        }
        Some(verdict)
    }

    fn all(&mut self) -> Option<bool> {
        let mut verdict = self.one()?;
        while self.take("AND") {
            verdict &= self.one()?;
        }
        Some(verdict)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let verdict = self.choice()?;
            return self.take(")").then_some(verdict);
        }
        let licence = self.word()?;
        if self.take("WITH") {
            let exception = self.word()?;
            return Some(ALLOWED.contains(&format!("{licence} WITH {exception}").as_str()));
        }
        Some(ALLOWED.contains(&licence))
    }

    fn word(&mut self) -> Option<&'a str> {
        let word = *self.words.get(self.at)?;
        self.at += 1;
        (!matches!(word, "OR" | "AND" | "WITH" | "(" | ")")).then_some(word)
    }

    fn take(&mut self, expected: &str) -> bool {
        let found = self.words.get(self.at) == Some(&expected);
        self.at += usize::from(found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    #[test]
    fn expressions_are_weighed() {
        let good = [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "Apache-2.0 / MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "MIT OR LGPL-2.1-or-later",
            "Apache-2.0 WITH LLVM-exception OR MIT",
            "Apache-2.0 WITH LLVM-exception",
            "MIT AND (GPL-3.0 OR ISC)",
        ];
        for expression in good {
            assert_eq!(allowed(expression), Some(true), "{expression}");
        }
        let bad =
            ["GPL-3.0", "MIT AND MPL-2.0", "MIT AND GPL-3.0 OR AGPL-3.0", "MIT WITH LLVM-exception", "mit"];
        for expression in bad {
            assert_eq!(allowed(expression), Some(false), "{expression}");
        }
    }

    #[test]
    fn what_is_not_an_expression_is_not_guessed_at() {
        for expression in ["", "MIT OR", "(MIT", "MIT)", "MIT Apache-2.0", "OR MIT", "MIT WITH"] {
            assert_eq!(allowed(expression), None, "{expression}");
        }
    }

    #[test]
    fn a_package_without_a_licence_is_found() {
        let package =
            |license: Option<&str>| Package { license: license.map(str::to_owned), ..Package::default() };
        let packages =
            vec![package(None), package(Some("MIT")), package(Some("SSPL-1.0")), package(Some("MIT or so"))];
        assert_eq!(check(&Metadata { packages, ..Metadata::default() }).len(), 3);
    }
}
