//! Texts of a manifest as anybody may read them: without the passwords that stand in URLs and arguments.
//!
//! A net, and no promise: what must stay secret is a secret of the engine, which is in no text.

use formic_settings::is_secret;
use serde_json::Value;

use super::HIDDEN;

/// A value without what is known to be a password in it.
pub(super) fn masked(text: &str) -> String {
    match serde_json::from_str(text) {
        Ok(Value::Array(values)) => Value::Array(arguments(values)).to_string(),
        _ => without_passwords(text),
    }
}

/// Arguments of a program: `--password=…`, and what follows `--password`.
fn arguments(values: Vec<Value>) -> Vec<Value> {
    let mut next_is_secret = false;
    let one = |value: Value| {
        let Value::String(text) = value else { return value };
        let follows = std::mem::take(&mut next_is_secret) && !text.starts_with('-');
        let shown = match text.split_once('=') {
            _ if follows => HIDDEN.to_owned(),
            Some((name, _)) if is_name(name) && is_secret(name) => format!("{name}={HIDDEN}"),
            _ => {
                next_is_secret = text.starts_with('-') && is_secret(&text);
                without_passwords(&text)
            }
        };
        Value::String(shown)
    };
    values.into_iter().map(one).collect()
}

/// Of an option or a variable.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_of_name)
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// A text without the passwords of URLs and of options that are called so, wherever they stand in it.
#[must_use]
pub fn without_passwords(text: &str) -> String {
    options(&urls(text))
}

/// `--password=…` without what it is. What follows `--password` and a space may be any word of a sentence, and stays.
///
/// A line is a program's own and may be long: no part of it is looked at again for each dash before it.
fn options(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("--") {
        let begins =
            before.chars().next_back().is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '-' | '_'));
        let after = after.trim_start_matches('-');
        out.push_str(&rest[..rest.len() - after.len()]);
        rest = after;
        if !begins {
            continue;
        }
        // An option within this name would end where it ends, and be no more secret than it: it is passed over whole.
        let name = &rest[..rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len())];
        out.push_str(name);
        rest = &rest[name.len()..];
        let Some(value) = rest.strip_prefix('=').filter(|_| is_secret(name)) else { continue };
        // In a line of JSON a quote stands after a backslash. After two it is the end of the text there, whose last
        // character is a backslash.
        let depth = value.len() - value.trim_start_matches('\\').len();
        let quote = value[depth..].chars().next().filter(|c| matches!(c, '"' | '\''));
        let quote = quote.filter(|_| depth == 0 || depth % 2 == 1);
        let (opening, value) = value.split_at(quote.map_or(0, |quote| depth + quote.len_utf8()));
        out.push('=');
        out.push_str(opening);
        out.push_str(HIDDEN);
        rest = &value[end(value, quote, depth)..];
    }
    out.push_str(rest);
    out
}

/// Where a value ends that stands after a quote with so many backslashes before it, or after none. The backslashes
/// before its end are left out of it, so that a line of JSON stays one.
fn end(value: &str, quote: Option<char>, depth: usize) -> usize {
    let mut backslashes = 0;
    for (at, c) in value.char_indices() {
        let ends = match quote {
            // With more of them it is a quote within the value.
            Some(quote) => c == quote && backslashes <= depth,
            None => c.is_whitespace() || matches!(c, '"' | '\''),
        };
        if ends {
            return at - backslashes;
        }
        backslashes = if c == '\\' { backslashes + 1 } else { 0 };
    }
    value.len()
}

/// `scheme://user:password@host` without the password, wherever it stands.
fn urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let ends = |c: char| matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>') || c.is_whitespace();
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        // A password may have an @ of its own.
        match authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
            Some((user, host)) => {
                out.push_str(user);
                out.push(':');
                out.push_str(HIDDEN);
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = &after[authority.len()..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_and_arguments_are_hidden() {
        for (text, shown) in [
            ("postgres://u:pass77@h:5432/db?x=1", "postgres://u:(hidden)@h:5432/db?x=1"),
            ("a redis://:p@ss@h and http://h/a:b@c", "a redis://:(hidden)@h and http://h/a:b@c"),
            ("http://user@h/", "http://user@h/"),
            ("[::1]:80", "[::1]:80"),
            (
                r#"["x","--password=a=b","--db=http://u:p@h"]"#,
                r#"["x","--password=(hidden)","--db=http://u:(hidden)@h"]"#,
            ),
            (r#"["--token","t","--port","80"]"#, r#"["--token","(hidden)","--port","80"]"#),
            (r#"["--token","--port","80"]"#, r#"["--token","--port","80"]"#),
            (r#"["API_TOKEN=t"]"#, r#"["API_TOKEN=(hidden)"]"#),
            (
                "+ mysql --password=x1 --host=h -- --api-token='a b' y",
                "+ mysql --password=(hidden) --host=h -- --api-token='(hidden)' y",
            ),
            (
                "\"--secret=s\" --password is needed, a--password=b",
                "\"--secret=(hidden)\" --password is needed, a--password=b",
            ),
            ("--password=", "--password=(hidden)"),
            ("----password=x ---a", "----password=(hidden) ---a"),
            (r#"--password="a\"b" c"#, r#"--password="(hidden)" c"#),
            ("plain", "plain"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn a_line_of_json_stays_one() {
        for (text, shown) in [
            (r#"{"message":"x --password=\"s3cret\""}"#, r#"{"message":"x --password=\"(hidden)\""}"#),
            (r#"{"m":"--password=\"a b\" c","n":"d"}"#, r#"{"m":"--password=\"(hidden)\" c","n":"d"}"#),
            (r#"{"m":"--password=\"a\\\"b\" c"}"#, r#"{"m":"--password=\"(hidden)\" c"}"#),
            (r#"{"m":"--password=\"never closed"}"#, r#"{"m":"--password=\"(hidden)"}"#),
            (r#"{"m":"\"--password=s3cret\" c"}"#, r#"{"m":"\"--password=(hidden)\" c"}"#),
            (r#"{"m":"--password=s3cret"}"#, r#"{"m":"--password=(hidden)"}"#),
            (r#"{"m":"--password=s3cret\\"}"#, r#"{"m":"--password=(hidden)\\"}"#),
            (r#"{"m":"--password=\\"}"#, r#"{"m":"--password=(hidden)\\"}"#),
            (
                r#"{"m":"{\"m\":\"--password=\\\"a b\\\" c\"}"}"#,
                r#"{"m":"{\"m\":\"--password=\\\"(hidden)\\\" c\"}"}"#,
            ),
            (r#"{"m":"\"http://u:p@h\" c"}"#, r#"{"m":"\"http://u:(hidden)@h\" c"}"#),
            (r#"{"m":"http://u:p\\@h\nb"}"#, r#"{"m":"http://u:(hidden)@h\nb"}"#),
        ] {
            assert_eq!(masked(text), shown);
            assert!(serde_json::from_str::<Value>(shown).is_ok(), "{shown}");
        }
    }

    /// It is the program's own, and shown while others wait.
    #[test]
    fn a_long_line_costs_no_more_for_its_dashes() {
        for part in ["-", "--a", ".--a", " --a", "--token"] {
            let text = part.repeat((64 << 10) / part.len());
            assert_eq!(masked(&text), text);
        }
        for part in ["-", "--a", ".--a"] {
            let text = part.repeat((64 << 10) / part.len()) + "=";
            assert_eq!(masked(&text), text);
        }
    }
}
