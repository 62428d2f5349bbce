//! Texts of others as anybody may read them on a terminal: they move no cursor, and what is known to be a password in
//! them is not shown.

pub use crate::diff::without_passwords;

/// A text on one line that moves no cursor: what others say must not write over what is said of them.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // They turn what follows around.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.extend(c.escape_unicode()),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// A line of a program on a terminal: its colours, if those are wanted, and nothing else that a terminal would carry out.
#[must_use]
pub fn on_terminal(line: &str, colours: bool) -> String {
    let mut out = String::with_capacity(line.len());
    let (mut rest, mut coloured) = (line, false);
    while let Some(at) = rest.find(|c: char| c != '\t' && acts(c)) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(length) = colour(rest) {
            if colours {
                coloured = true;
                out.push_str(&rest[..length]);
            }
            rest = &rest[length..];
        } else {
            let length = rest.chars().next().map_or(rest.len(), char::len_utf8);
            out.push_str(&plain(&rest[..length]));
            rest = &rest[length..];
        }
    }
    out.push_str(rest);
    if coloured {
        // What comes after it is somebody else's.
        out.push_str("\u{1b}[0m");
    }
    out
}

/// Whether a terminal does something else with a character than to show it.
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The length of a sequence that changes how text looks, if one begins here: not one that hides it.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    let is_one = parameters[end..].starts_with('m');
    let mut numbers = parameters[..end].split(';');
    let mut hides = false;
    while let Some(number) = numbers.next() {
        match number {
            "8" | "08" => hides = true,
            // A colour by its number, or by three.
            "38" | "48" => match numbers.next() {
                Some("5") => drop(numbers.next()),
                Some("2") => drop(numbers.nth(2)),
                _ => {}
            },
            _ => {}
        }
    }
    (is_one && !hides).then_some("\u{1b}[".len() + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_line_a_terminal_gets_the_text_and_its_colours() {
        let line = "\u{1b}[1;38;5;8mred\u{1b}[0m\tx\u{1b}[2J\u{1b}]0;title\u{7}\r\u{9b}1A";
        let rest = "\tx\\u{1b}[2J\\u{1b}]0;title\\u{7}\\r\\u{9b}1A";
        assert_eq!(on_terminal(line, true), format!("\u{1b}[1;38;5;8mred\u{1b}[0m{rest}\u{1b}[0m"));
        assert_eq!(on_terminal(line, false), format!("red{rest}"));
        assert_eq!(on_terminal("ü 漢字 \u{202e}", true), "ü 漢字 \\u{202e}");
        // One that hides what follows, and one that goes on for ever.
        assert_eq!(on_terminal("\u{1b}[1;8mx", true), "\\u{1b}[1;8mx");
        assert_eq!(on_terminal("\u{1b}[1;", true), "\\u{1b}[1;");
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(plain("ü\n\u{1b}[1A\u{9b}2K漢字\u{202e}\tx"), "ü\\n\\u{1b}[1A\\u{9b}2K漢字\\u{202e}\\tx");
    }
}
