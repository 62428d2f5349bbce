//! A Rust source as the scans need it: without comments and literals, and with its test code marked.
//!
//! Not a parser: the scans look for a handful of calls, and a parser would be the largest dependency of xtask.

/// `text` with every comment, string and character literal blanked, line for line and byte for byte.
pub(crate) fn bare(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !follows_word(bytes, at) => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            b'\'' => match char_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // Only whole literals and comments were blanked, so what is left is as much UTF-8 as it was.
    String::from_utf8_lossy(&out).into_owned()
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |length| from + length)
}

/// Block comments nest.
fn comment_end(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `r"…"`, `r#"…"#`, and after a `b` or `c` the same.
fn raw_string_end(bytes: &[u8], from: usize) -> Option<usize> {
    let hashes = bytes[from + 1..].iter().take_while(|&&byte| byte == b'#').count();
    let body = from + 1 + hashes;
    if bytes.get(body) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let length = bytes[body + 1..].windows(close.len()).position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| body + 1 + length + close.len()))
}

/// A character literal; `None` for a lifetime.
fn char_end(bytes: &[u8], from: usize) -> Option<usize> {
    let first = *bytes.get(from + 1)?;
    if first == b'\\' {
        // `'\''`, `'\u{1f41c}'`: the closing quote is the first one after the escaped character.
        let rest = bytes.get(from + 3..)?;
        return rest.iter().position(|&byte| byte == b'\'').map(|length| from + 3 + length + 1);
    }
    let width = match first {
        0x00..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    (bytes.get(from + 1 + width) == Some(&b'\'')).then_some(from + 2 + width)
}

/// Whether the byte before `at` belongs to a name, except for the `b` and `c` of `br"…"` and `cr"…"`.
fn follows_word(bytes: &[u8], at: usize) -> bool {
    let word = |index: usize| bytes[index].is_ascii_alphanumeric() || bytes[index] == b'_';
    match at {
        0 => false,
        1 => word(0) && !matches!(bytes[0], b'b' | b'c'),
        _ => word(at - 1) && (!matches!(bytes[at - 1], b'b' | b'c') || word(at - 2)),
    }
}

/// For each line of `bare` code, whether it is inside an item under `#[cfg(test)]`.
pub(crate) fn test_lines(bare: &str) -> Vec<bool> {
    lines_under(bare, |condition| has_word(condition, "test") && !condition.contains("not(test"))
}

/// For each line of `bare` code, whether it is inside an item that is there on some systems only.
pub(crate) fn system_lines(bare: &str) -> Vec<bool> {
    lines_under(bare, |condition| has_word(condition, "target_os"))
}

/// For each line, whether it is inside an item whose `#[cfg(…)]` satisfies `matches`.
fn lines_under(bare: &str, matches: impl Fn(&str) -> bool) -> Vec<bool> {
    let mut marks = vec![false; bare.lines().count()];
    let mut from = 0;
    while let Some(found) = bare[from..].find("#[cfg(") {
        let start = from + found;
        let Some(close) = bare[start..].find(']') else { break };
        from = start + close;
        if !matches(&bare[start..from]) {
            continue;
        }
        let end = item_end(bare, from);
        let first = bare[..start].matches('\n').count();
        let last = bare[..end].matches('\n').count();
        for mark in marks.iter_mut().take(last + 1).skip(first) {
            *mark = true;
        }
        from = end;
    }
    marks
}

/// The end of the item after `from`: its closing brace, or the semicolon of an item without a body.
fn item_end(bare: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in bare.bytes().enumerate().skip(from) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return offset + 1;
                }
            }
            b';' if depth == 0 => return offset + 1,
            _ => {}
        }
    }
    bare.len()
}

/// Whether `word` is in `text` and not as a part of a longer name.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part)
            && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        let cases = [
            ("a(); // tokio::spawn(", "a();"),
            ("/* x /* y */ spawn */ b", "b"),
            (r#"f("a \" spawn", 1)"#, "f( , 1)"),
            (r###"f(r#"a " spawn"#, br"spawn")"###, "f( , b )"),
            ("let c = '\"'; spawn()", "let c = ; spawn()"),
            (r"let c = '\''; spawn()", "let c = ; spawn()"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("let r = for_r\"x\";", "let r = for_r ;"),
            ("let ant = '🐜'; spawn()", "let ant = ; spawn()"),
        ];
        for (text, expected) in cases {
            let bare = bare(text);
            assert_eq!(bare.len(), text.len(), "{text}");
            let squeezed = bare.split_whitespace().collect::<Vec<_>>().join(" ");
            let expected = expected.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(squeezed.replace(" ,", ","), expected.replace(" ,", ","), "{text}");
        }
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = "a\n/* b\nc */ d\n\"e\nf\" g\n";
        let bare = bare(text);
        assert_eq!(bare.lines().count(), text.lines().count());
        assert!(bare.lines().nth(2).is_some_and(|line| line.contains('d')));
        assert!(bare.lines().nth(4).is_some_and(|line| line.contains('g')));
    }

    #[test]
    fn an_unfinished_literal_ends_with_the_file() {
        for text in ["\"abc", "r#\"abc", "/* abc", "'", "'\\", "r", "r#"] {
            assert_eq!(bare(text).len(), text.len());
        }
    }

    #[test]
    fn test_modules_are_marked() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { c(); }\n}\nfn d() {}\n#[cfg(test)]\nuse x;\nfn e() {}\n";
        let marks = test_lines(code);
        assert_eq!(marks, [false, true, true, true, true, false, true, true, false]);
    }

    #[test]
    fn only_test_code_is_marked() {
        assert_eq!(test_lines("#[cfg(not(test))]\nfn a() {}\n"), [false, false]);
        assert_eq!(test_lines("#[cfg(all(test, unix))]\nfn a() {}\n"), [true, true]);
        assert_eq!(test_lines("#[cfg(feature)]\nfn a() {}\n"), [false, false]);
        assert_eq!(system_lines("#[cfg(target_os =        )]\nfn a() {}\nfn b() {}\n"), [true, true, false]);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("a test b", "test"));
        assert!(!has_word("testing attest", "test"));
    }
}
