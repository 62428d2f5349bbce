//! The arguments of `cargo xtask test`.

use anyhow::{Result, bail};

use super::kinds::Kind;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// In the order of [`Kind::ALL`], whatever the order on the command line.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) list: bool,
    pub(crate) timings: bool,
    pub(crate) verbose: bool,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut only = Vec::new();
        let mut options = Self { kinds: Vec::new(), list: false, timings: false, verbose: false };
        let mut args = args.iter().peekable();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--list" => options.list = true,
                "--timings" => options.timings = true,
                "--verbose" => options.verbose = true,
                "--only" => {
                    let before = only.len();
                    while let Some(names) = args.next_if(|next| !next.starts_with('-')) {
                        for name in names.split(',').filter(|name| !name.is_empty()) {
                            only.push(kind(name)?);
                        }
                    }
                    if only.len() == before {
                        bail!("--only needs at least one kind: {}", names());
                    }
                }
                other => {
                    bail!("test does not know `{other}`; it takes --only KIND…, --list, --timings, --verbose")
                }
            }
        }
        let is_asked =
            |kind: &Kind| if only.is_empty() { kind.is_of_the_gate() } else { only.contains(kind) };
        options.kinds = Kind::ALL.into_iter().filter(is_asked).collect();
        Ok(options)
    }
}

fn kind(name: &str) -> Result<Kind> {
    match Kind::ALL.into_iter().find(|kind| kind.name() == name) {
        Some(kind) => Ok(kind),
        None => bail!("there is no kind of test `{name}`; the kinds are {}", names()),
    }
}

fn names() -> String {
    Kind::ALL.map(Kind::name).join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn nothing_said_means_the_gate() {
        let kinds = parse("").unwrap().kinds;
        assert_eq!(kinds.len(), Kind::ALL.len() - 1);
        assert!(!kinds.contains(&Kind::Vm));
        assert_eq!(parse("--only vm").unwrap().kinds, [Kind::Vm]);
    }

    #[test]
    fn kinds_come_in_the_order_of_the_gate() {
        let expected = [Kind::Fmt, Kind::Clippy, Kind::Tidy];
        assert_eq!(parse("--only tidy fmt --only clippy").unwrap().kinds, expected);
        assert_eq!(parse("--only tidy,fmt,clippy --timings").unwrap().kinds, expected);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(format!("{:#}", parse("--only fnt").unwrap_err()).contains("fnt"));
        assert!(parse("--only").is_err());
        assert!(parse("--only --timings").is_err());
        assert!(parse("--fast").is_err());
        assert!(parse("fmt").is_err());
    }
}
