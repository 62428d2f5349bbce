//! Colour where a person looks, plain text where a program reads.

use std::io::IsTerminal as _;

/// The few styles the output uses.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Style {
    Bold,
    Good,
    Bad,
    Note,
}

/// Whether to colour: standard output is a terminal and `NO_COLOR` is not set.
pub(crate) fn coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `text` in `style` on a terminal, and as it is elsewhere.
pub(crate) fn paint(style: Style, text: &str) -> String {
    if !coloured() {
        return text.to_owned();
    }
    let code = match style {
        Style::Bold => "1",
        Style::Good => "32",
        Style::Bad => "1;31",
        Style::Note => "33",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// `line` without its colour codes, for reading what a coloured tool wrote.
pub(crate) fn strip(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            plain.push(c);
            continue;
        }
        if chars.next_if_eq(&'[').is_some() {
            // A control sequence ends with its first letter-like byte.
            for end in chars.by_ref() {
                if ('@'..='~').contains(&end) {
                    break;
                }
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::strip;

    #[test]
    fn colour_codes_vanish_and_text_stays() {
        assert_eq!(
            strip("\u{1b}[1m\u{1b}[92m   Compiling\u{1b}[0m xtask v0.1.0"),
            "   Compiling xtask v0.1.0"
        );
        assert_eq!(strip("plain"), "plain");
        assert_eq!(strip("cut \u{1b}["), "cut ");
    }
}
