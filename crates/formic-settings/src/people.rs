//! What a type expects and what it got instead, as people say it: serde names the types of Rust, which whoever writes a
//! file need not know.

use std::borrow::Cow;

/// What serde says is expected, in words: a `u32` is a whole number up to 4294967295. What is in words already stays.
#[must_use]
pub fn expected(what: &str) -> &str {
    match what {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "u128" | "usize" => "a whole number, 0 or more",
        "i8" => "a whole number from -128 to 127",
        "i16" => "a whole number from -32768 to 32767",
        "i32" => "a whole number from -2147483648 to 2147483647",
        "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "text",
        "a sequence" => "a list",
        "a map" => "a table",
        rust if rust.starts_with("struct ") => "a table",
        rust if rust.starts_with("enum ") => "a word",
        words => words,
    }
}

/// What serde says it got, in words.
#[must_use]
pub fn got(what: &str) -> Cow<'_, str> {
    let quoted = |kind: &str| what.strip_prefix(kind)?.strip_prefix(" `")?.strip_suffix('`');
    if let Some(value) = quoted("floating point") {
        return value.parse::<f64>().map_or(value.into(), |value| number(value).into());
    }
    if let Some(value) = ["integer", "boolean", "character"].into_iter().find_map(quoted) {
        return value.into();
    }
    match what {
        "map" => "a table".into(),
        "sequence" => "a list".into(),
        other => other.strip_prefix("string ").unwrap_or(other).into(),
    }
}

/// A number, short however large or small it is.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value.is_nan() {
        "nan".into()
    } else if size.is_finite() && (size >= 1e15 || (size > 0.0 && size < 1e-6)) {
        format!("{value:e}")
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_rust_are_words_and_words_stay() {
        assert_eq!(expected("u32"), "a whole number from 0 to 4294967295");
        assert_eq!(expected("struct Rule"), "a table");
        assert_eq!(expected("a duration such as 5s"), "a duration such as 5s");
        for (what, words) in [
            ("integer `-5`", "-5"),
            ("boolean `true`", "true"),
            ("floating point `1.5`", "1.5"),
            ("floating point `NaN`", "nan"),
            ("string \"many\"", "\"many\""),
            ("map", "a table"),
            ("sequence", "a list"),
            ("unit value", "unit value"),
        ] {
            assert_eq!(got(what), words);
        }
        let huge = format!("floating point `{:?}`", f64::MAX);
        assert!(got(&huge).len() < 30, "{}", got(&huge));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, -2.5, 1000.0, 1e300, 1e-9].map(number), ["0", "-2.5", "1000", "1e300", "1e-9"]);
    }
}
